"""Keys of an identity provider: fetched when needed, no oftener, and never mistaken for one another."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from api.errors import KeysUnavailable, Unauthenticated
from api.identity import TokenVerifier
from api.jwks import DOCUMENT_MAX, KEPT_S, REFETCH_MIN_S, FetchFailed, JwksKeys, fetch_from

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"sub": "ana", "roles": ["customer"], "iss": "https://id.example", "aud": "holdfast"}


def jwk_of(key: Any, kid: str, **members: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return algorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} | members


class Provider:
    """A key set that a test changes, and how often it was asked for."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.fetches = 0
        self.away = False

    async def fetch(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.away:
            raise FetchFailed("away")
        return json.dumps({"keys": self.keys}).encode()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def verifier_of(provider: Provider, clock: Callable[[], float] = time.monotonic) -> TokenVerifier:
    return TokenVerifier([JwksKeys(provider.fetch, clock=clock)], issuer="https://id.example", audience="holdfast")


def token_of(key: Any, kid: str | None, algorithm: str, **claims: Any) -> bytes:
    payload = CLAIMS | {"exp": time.time() + 60} | claims
    return b"Bearer " + jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid else {}).encode()


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256")])
async def test_token_holds_when_it_is_signed_with_a_published_key(key: Any, algorithm: str) -> None:
    provider = Provider(jwk_of(RSA_KEY, "r"), jwk_of(EC_KEY, "e"))
    caller = await verifier_of(provider).verify(token_of(key, "r" if key is RSA_KEY else "e", algorithm))
    assert (caller.sub, caller.roles, caller.scope) == ("ana", frozenset({"customer"}), None)


async def test_token_of_hs256_signed_with_the_public_key_is_refused() -> None:
    pem = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = ({"alg": "HS256", "typ": "JWT", "kid": "r"}, CLAIMS | {"exp": time.time() + 60})
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(pem, signed, hashlib.sha256)).rstrip(b"=")
    with pytest.raises(Unauthenticated):
        await verifier_of(Provider(jwk_of(RSA_KEY, "r"))).verify(b"Bearer " + signed + b"." + signature)


@pytest.mark.parametrize(
    ("kid", "algorithm", "key"),
    [("e", "RS256", RSA_KEY), ("r", "ES256", EC_KEY), ("r", "RS512", RSA_KEY), (None, "RS256", RSA_KEY)],
)
async def test_token_is_refused_when_key_id_algorithm_and_signature_do_not_belong_together(
    kid: str | None, algorithm: str, key: Any
) -> None:
    provider = Provider(jwk_of(RSA_KEY, "r"), jwk_of(EC_KEY, "e"))
    with pytest.raises(Unauthenticated):
        await verifier_of(provider).verify(token_of(key, kid, algorithm))


async def test_key_meant_for_encryption_signs_nothing() -> None:
    provider = Provider(jwk_of(RSA_KEY, "r", use="enc"), jwk_of(EC_KEY, "e"))
    with pytest.raises(Unauthenticated):
        await verifier_of(provider).verify(token_of(RSA_KEY, "r", "RS256"))


async def test_unknown_key_id_leads_to_one_fetch_and_then_none_for_a_while() -> None:
    clock, provider = Clock(), Provider(jwk_of(RSA_KEY, "r"))
    verifier = verifier_of(provider, clock)
    await verifier.verify(token_of(RSA_KEY, "r", "RS256"))
    clock.now_s += REFETCH_MIN_S
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token_of(RSA_KEY, f"made-up-{number}", "RS256"))
    assert provider.fetches == 2


async def test_key_published_since_is_found() -> None:
    clock, provider = Clock(), Provider(jwk_of(RSA_KEY, "r"))
    verifier = verifier_of(provider, clock)
    await verifier.verify(token_of(RSA_KEY, "r", "RS256"))
    provider.keys.append(jwk_of(EC_KEY, "new"))
    assert (await verifier.verify(token_of(EC_KEY, "new", "ES256"))).sub == "ana"
    provider.keys.append(jwk_of(RSA_KEY, "newer"))
    with pytest.raises(Unauthenticated):
        await verifier.verify(token_of(RSA_KEY, "newer", "RS256"))
    clock.now_s += REFETCH_MIN_S
    assert (await verifier.verify(token_of(RSA_KEY, "newer", "RS256"))).sub == "ana"
    assert provider.fetches == 3


async def test_made_up_key_ids_at_once_lead_to_one_fetch() -> None:
    provider = Provider(jwk_of(RSA_KEY, "r"))
    verifier = verifier_of(provider)
    await verifier.verify(token_of(RSA_KEY, "r", "RS256"))
    tokens = [token_of(RSA_KEY, f"made-up-{number}", "RS256") for number in range(20)]
    refused = await asyncio.gather(*map(verifier.verify, tokens), return_exceptions=True)
    assert {type(error) for error in refused} == {Unauthenticated}
    assert provider.fetches == 2


async def test_key_withdrawn_is_forgotten_when_the_set_is_fetched_anew() -> None:
    clock, provider = Clock(), Provider(jwk_of(RSA_KEY, "r"), jwk_of(EC_KEY, "e"))
    verifier = verifier_of(provider, clock)
    await verifier.verify(token_of(RSA_KEY, "r", "RS256"))
    provider.keys.pop(0)
    clock.now_s += KEPT_S
    with pytest.raises(Unauthenticated):
        await verifier.verify(token_of(RSA_KEY, "r", "RS256", jti="another"))


async def test_keys_at_hand_count_while_the_provider_is_away() -> None:
    clock, provider = Clock(), Provider(jwk_of(RSA_KEY, "r"))
    verifier = verifier_of(provider, clock)
    await verifier.verify(token_of(RSA_KEY, "r", "RS256"))
    provider.away = True
    clock.now_s += KEPT_S
    assert (await verifier.verify(token_of(RSA_KEY, "r", "RS256", jti="another"))).sub == "ana"


async def test_verification_is_unavailable_when_no_key_was_ever_fetched_and_comes_back_by_itself() -> None:
    clock, provider = Clock(), Provider(jwk_of(RSA_KEY, "r"))
    provider.away = True
    verifier = verifier_of(provider, clock)
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await verifier.verify(token_of(RSA_KEY, "r", "RS256"))
    assert provider.fetches == 1
    provider.away = False
    clock.now_s += REFETCH_MIN_S
    assert (await verifier.verify(token_of(RSA_KEY, "r", "RS256"))).sub == "ana"


async def test_concurrent_first_tokens_share_one_fetch() -> None:
    provider = Provider(jwk_of(RSA_KEY, "r"))
    verifier = verifier_of(provider)
    await asyncio.gather(*(verifier.verify(token_of(RSA_KEY, "r", "RS256", jti=str(n))) for n in range(20)))
    assert provider.fetches == 1


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b"[]", b"\xff", b'{"keys": 7}', b'{"keys": null}'],
    ids=repr,
)
async def test_document_that_is_no_key_set_is_no_key_at_all(document: bytes) -> None:
    async def fetch() -> bytes:
        return document

    with pytest.raises(KeysUnavailable):
        await JwksKeys(fetch).find_keys({"alg": "RS256", "kid": "r"})


async def test_keys_we_cannot_use_are_passed_over() -> None:
    others = [
        7,
        {},
        {"kid": "x"},
        {"kid": "y", "kty": "oct", "k": "AAAA"},
        {"kid": "z", "kty": "RSA", "n": "", "e": ""},
    ]
    provider = Provider(*others, jwk_of(RSA_KEY, "r"))  # type: ignore[arg-type]
    assert (await verifier_of(provider).verify(token_of(RSA_KEY, "r", "RS256"))).sub == "ana"


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(500),
        httpx2.Response(302, headers={"location": "http://169.254.169.254/"}),
        httpx2.Response(200, content=b" " * (DOCUMENT_MAX + 1)),
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("slow"),
    ],
    ids=["error", "redirect", "too-long", "refused", "slow"],
)
async def test_fetch_fails_when_the_provider_does_not_answer_with_a_document(
    response: httpx2.Response | Exception,
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if isinstance(response, Exception):
            raise response
        return response

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        with pytest.raises(FetchFailed):
            await fetch_from("https://id.example/jwks", client)()


async def test_fetch_gives_the_document() -> None:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json={"keys": [jwk_of(EC_KEY, "e")]}))
    async with httpx2.AsyncClient(transport=transport) as client:
        keys = JwksKeys(fetch_from("https://id.example/jwks", client))
        assert [key.key_id for key in await keys.find_keys({"alg": "ES256", "kid": "e"})] == ["e"]
