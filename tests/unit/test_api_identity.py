"""Tokens that hold, and all those that must not."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from api_kit import AUDIENCE, ISSUER, SECRET, make_token, make_verifier
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from api.errors import Forbidden, Unauthenticated
from api.identity import REMEMBERED_S, Caller, SharedSecret, TokenVerifier


def header(token: str) -> bytes:
    return b"Bearer " + token.encode()


def unsigned(payload: dict[str, Any], **header_members: Any) -> str:
    parts = ({"typ": "JWT", "alg": "none"} | header_members, payload)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


async def refusal(verifier: TokenVerifier, authorization: bytes | None) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(authorization)
    assert authorization is None or verifier.recall(authorization) is None
    return refused.value


async def test_token_that_holds_names_its_bearer_and_the_roles_known_here() -> None:
    caller = await make_verifier().verify(header(make_token("ana", "customer", "editor")))
    assert (caller.sub, caller.roles, caller.scope) == ("ana", frozenset({"customer"}), None)


async def test_token_scheme_is_read_without_regard_to_case() -> None:
    assert (await make_verifier().verify(b"bearer " + make_token("ana").encode())).sub == "ana"


@pytest.mark.parametrize("claim", ["sub", "exp", "iss", "aud"])
async def test_token_is_refused_when_a_claim_is_missing(claim: str) -> None:
    await refusal(make_verifier(), header(make_token(**{claim: None} if claim != "sub" else {"sub": None})))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "somebody"},
        {"aud": "something"},
        {"aud": []},
        {"exp": 1_700_000_000},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": []},
        {"nbf": 9_999_999_999},
        {"nbf": "later"},
        {"roles": 7},
        {"roles": [7]},
        {"roles": [["customer"]]},
        {"roles": {"customer": True}},
    ],
    ids=repr,
)
async def test_token_is_refused_when_a_claim_does_not_hold(claims: dict[str, Any]) -> None:
    await refusal(make_verifier(), header(make_token("ana", "customer", **claims)))


@pytest.mark.parametrize("sub", ["", "x" * 256, "a\nb", "a\0b", "\ud800", "a\u202eb", 7, ["ana"]], ids=repr)
async def test_token_is_refused_when_its_subject_cannot_be_a_customers_id(sub: Any) -> None:
    await refusal(make_verifier(), header(make_token(sub)))


@pytest.mark.parametrize("sub", ["auth0|5f7c8ec7", "ana@example.org", "{x}:*", "Zoë Ångström"])
async def test_token_subject_may_be_what_identity_providers_make_of_it(sub: str) -> None:
    assert (await make_verifier().verify(header(make_token(sub)))).sub == sub


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
async def test_token_without_a_signature_is_refused(algorithm: str) -> None:
    claims = {"sub": "eve", "roles": ["admin"], "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60}
    await refusal(make_verifier(), header(unsigned(claims, alg=algorithm)))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_token_signed_with_the_secret_but_another_algorithm_is_refused(algorithm: str) -> None:
    claims = {"sub": "ana", "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60}
    await refusal(make_verifier(), header(jwt.encode(claims, SECRET * 2, algorithm)))


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
    ],
)
async def test_token_signed_with_a_private_key_is_refused_when_only_a_secret_is_known(algorithm: str, key: Any) -> None:
    claims = {"sub": "ana", "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60}
    await refusal(make_verifier(), header(jwt.encode(claims, key, algorithm)))


async def test_token_of_another_secret_is_refused() -> None:
    await refusal(make_verifier(), header(make_token(secret="another secret, and long enough as well")))


async def test_tokens_of_every_secret_are_believed_while_one_takes_anothers_place() -> None:
    old, new = "the secret of before, and long enough", "the secret of now, and long enough as well"
    verifier = TokenVerifier([SharedSecret(new, old)], issuer=ISSUER, audience=AUDIENCE)
    for secret in (old, new):
        assert (await verifier.verify(header(make_token("ana", secret=secret)))).sub == "ana"
        await refusal(verifier, header(make_token("ana", secret=secret, exp=time.time() - 60)))
    await refusal(verifier, header(make_token("ana")))


async def test_token_changed_by_one_character_is_refused() -> None:
    verifier, token = make_verifier(), make_token("ana", "customer")
    for position in range(0, len(token), 7):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        await refusal(verifier, header(changed))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic YTpi",
        b"Bearer x",
        b"Bearer ..",
        b"Bearer a.b.c",
        b"Bearer \xff\xfe.\xff.\xff",
        b"Bearer " + b"x" * 9000,
        b"Bearer " + base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=") + b".e30.x",
        b"Bearer " + base64.urlsafe_b64encode(b'{"alg": []}').rstrip(b"=") + b".e30.e30",
        b"Bearer " + base64.urlsafe_b64encode(b'{"alg": {"a": 1}}').rstrip(b"=") + b".e30.e30",
        b"Bearer " + base64.urlsafe_b64encode(b'{"alg": "HS256", "crit": 7}').rstrip(b"=") + b".e30.e30",
        b"Bearer " + base64.urlsafe_b64encode(b"7").rstrip(b"=") + b".e30.e30",
    ],
    ids=range(15),
)
async def test_authorization_that_is_no_token_is_refused(authorization: bytes | None) -> None:
    await refusal(make_verifier(), authorization)


async def test_refusal_tells_no_token_from_a_bad_one() -> None:
    assert not (await refusal(make_verifier(), None)).invalid_token
    assert (await refusal(make_verifier(), b"Bearer x.y.z")).invalid_token


async def test_verified_token_is_recalled_for_a_minute_without_being_checked_again() -> None:
    now = time.time()
    moments = iter([now, now + REMEMBERED_S - 1, now + REMEMBERED_S])
    verifier = make_verifier(clock=lambda: next(moments))
    token = header(make_token("ana", "customer"))
    caller = await verifier.verify(token)
    assert verifier.recall(token) is caller
    assert verifier.recall(token) is None


async def test_verified_token_is_not_recalled_past_its_expiry() -> None:
    now = time.time()
    moments = iter([now, now + 4, now + 5])
    verifier = make_verifier(clock=lambda: next(moments))
    token = header(make_token("ana", exp=now + 5))
    await verifier.verify(token)
    assert verifier.recall(token) is not None
    assert verifier.recall(token) is None


async def test_recalled_tokens_are_bounded_and_the_least_recent_is_forgotten() -> None:
    verifier = make_verifier(remembered_max=2)
    first, second, third = (header(make_token(sub)) for sub in ("a", "b", "c"))
    for token in (first, second):
        await verifier.verify(token)
    verifier.recall(first)
    await verifier.verify(third)
    assert verifier.recall(second) is None
    assert verifier.recall(first) is not None
    assert verifier.recall(third) is not None


@pytest.mark.parametrize(
    ("scope", "events"), [(["a", "b"], {"a", "b"}), ("a b", {"a", "b"}), ([], set()), (None, None)]
)
async def test_service_token_is_confined_to_the_events_of_its_scope(scope: Any, events: set[str] | None) -> None:
    caller = await make_verifier().verify(header(make_token("box", "service", scope=scope)))
    assert caller.scope == events
    if events is not None:
        with pytest.raises(Forbidden):
            caller.require_event("elsewhere")


async def test_scope_of_a_customers_token_is_oauths_and_confines_nothing() -> None:
    caller = await make_verifier().verify(header(make_token("ana", "customer", scope="openid profile")))
    caller.require_event("anything")


def test_only_organizers_of_an_event_and_admins_run_it() -> None:
    assert Caller("olga", frozenset({"organizer"})).organizes("olga")
    assert Caller("root", frozenset({"admin"})).organizes("olga")
    assert not Caller("otto", frozenset({"organizer"})).organizes("olga")
    assert not Caller("olga", frozenset({"customer"})).organizes("olga")


def test_public_key_in_pem_is_no_secret_for_hs256() -> None:
    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(jwt.InvalidKeyError):
        jwt.encode({"sub": "eve"}, pem, "HS256")
