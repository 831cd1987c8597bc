"""Public keys of an identity provider, fetched from its JWKS URL and kept."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx2
import jwt
import msgspec
import structlog

from api.errors import KeysUnavailable, Unauthenticated

KEPT_S = 300.0  # then the keys are fetched anew, to learn which ones were withdrawn
REFETCH_MIN_S = 30.0  # tokens with made-up key ids must not turn us into a load on the provider
FETCH_TIMEOUT_S = 5.0
DOCUMENT_MAX = 262_144  # bytes

Fetch = Callable[[], Awaitable[bytes]]
logger = structlog.get_logger("holdfast.api")


class FetchFailed(Exception):
    """The document cannot be had, or is no key set."""


class JwksKeys:
    """Keys for RS256 and ES256 by their id.

    An id that is not known leads to one fetch, since providers publish a new key shortly before they use it. While the
    provider is away the keys at hand go on counting.
    """

    algorithms = ("RS256", "ES256")

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[tuple[str, str], jwt.PyJWK] = {}
        self._tried_at: float | None = None
        self._sought_at: float | None = None  # when a fetch was last made for an id that those at hand do not have
        self._lock = asyncio.Lock()

    async def find_keys(self, header: Mapping[str, Any]) -> list[jwt.PyJWK]:
        """The key of the header's ``kid``, if it is one for the header's ``alg``.

        Raises:
            Unauthenticated: There is no such key.
            KeysUnavailable: No key has ever been fetched.
        """
        wanted = (header.get("kid"), header.get("alg"))
        if not all(isinstance(part, str) for part in wanted):
            raise Unauthenticated("The token does not name its key.")
        known = wanted in self._keys
        # Whose key is at hand does not wait for a fetch under way; whose key is not, waits, and then looks again.
        if self._may_fetch(known=known) and not (known and self._lock.locked()):
            async with self._lock:
                known, had_some = wanted in self._keys, bool(self._keys)
                if self._may_fetch(known=known):
                    await self._refresh()
                    if had_some and not known:
                        self._sought_at = self._clock()
        if not self._keys:
            raise KeysUnavailable
        if (key := self._keys.get(wanted)) is None:  # type: ignore[arg-type]  # both are strings: looked at above
            raise Unauthenticated("The token names a key that its issuer does not publish.")
        return [key]

    def _may_fetch(self, *, known: bool) -> bool:
        if self._tried_at is None:
            return True
        if known:
            return self._clock() - self._tried_at >= KEPT_S
        # How old the keys at hand are does not matter to one that was published since: the first such id is looked
        # for at once, and none is for a while after.
        last = self._sought_at if self._keys else self._tried_at
        return last is None or self._clock() - last >= REFETCH_MIN_S

    async def _refresh(self) -> None:
        try:
            self._keys = _read_keys(await self._fetch())
        except FetchFailed as error:
            logger.warning("jwks_not_fetched", reason=str(error), keys_at_hand=len(self._keys))
        self._tried_at = self._clock()  # not before: until then whoever needs a key has to wait for it


def fetch_from(url: str, client: httpx2.AsyncClient) -> Fetch:
    """A way to fetch the document at *url*: no redirects, no longer than a few seconds, no larger than key sets are."""

    async def fetch() -> bytes:
        document = bytearray()
        try:
            async with client.stream("GET", url, follow_redirects=False, timeout=FETCH_TIMEOUT_S) as response:
                if response.status_code != 200:
                    raise FetchFailed(f"status {response.status_code}")
                async for chunk in response.aiter_bytes():
                    document += chunk
                    if len(document) > DOCUMENT_MAX:
                        raise FetchFailed(f"longer than {DOCUMENT_MAX} bytes")
        except httpx2.HTTPError as error:
            raise FetchFailed(type(error).__name__) from error
        return bytes(document)

    return fetch


def _read_keys(document: bytes) -> dict[tuple[str, str], jwt.PyJWK]:
    """The signing keys of a key set by id and algorithm; keys of other kinds are passed over."""
    try:
        members = msgspec.json.decode(document, type=dict[str, Any])["keys"]
        candidates = [member for member in members if _is_for_signing(member)]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FetchFailed(f"no key set: {type(error).__name__}") from error
    keys = {}
    for member in candidates:
        try:
            key = jwt.PyJWK.from_dict(member)
        except (jwt.PyJWTError, ValueError):
            logger.warning("jwks_key_passed_over", kid=str(member["kid"])[:64])
            continue
        if key.algorithm_name in JwksKeys.algorithms:
            keys[member["kid"], key.algorithm_name] = key
    return keys


def _is_for_signing(member: Any) -> bool:
    return isinstance(member, dict) and isinstance(member.get("kid"), str) and member.get("use", "sig") == "sig"
