"""Who calls: JSON Web Tokens checked once, remembered briefly, and what their bearer may do."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import jwt
import msgspec

from api.errors import Forbidden, Unauthenticated

CUSTOMER: Final = "customer"
ORGANIZER: Final = "organizer"
ADMIN: Final = "admin"
SERVICE: Final = "service"
ROLES = frozenset({CUSTOMER, ORGANIZER, ADMIN, SERVICE})

REMEMBERED_MAX = 10_000  # tokens; about a kilobyte each
REMEMBERED_S = 60  # a key that its issuer withdraws is trusted this much longer
TOKEN_MAX = 8192  # bytes; what proxies allow for all headers together
SUBJECT_MAX = 255
_NOT_OURS = "The token is not accepted here: its signature, issuer or audience are not this installation's."
_REQUIRED = ["exp", "iss", "aud", "sub"]


class Caller(msgspec.Struct, frozen=True):
    """The bearer of a verified token; ``scope`` names the events that a service token is confined to.

    ``expires_at_s`` is when the token does, in seconds since 1970.
    """

    sub: str
    roles: frozenset[str]
    scope: frozenset[str] | None = None
    expires_at_s: float = math.inf

    @property
    def is_admin(self) -> bool:
        """Whether everything is this caller's to see and change."""
        return ADMIN in self.roles

    @property
    def is_trusted(self) -> bool:
        """Whether this is staff or a program of theirs, whose requests are not counted."""
        return not self.roles.isdisjoint((ADMIN, SERVICE))

    @property
    def owner(self) -> str | None:
        """Whose holds this caller may touch: their own, or (``None``) anybody's."""
        return None if ADMIN in self.roles else self.sub

    def organizes(self, organizer_id: str) -> bool:
        """Whether the events of *organizer_id* are this caller's to run."""
        return ADMIN in self.roles or (ORGANIZER in self.roles and self.sub == organizer_id)

    def require_event(self, event_id: str) -> None:
        """Keep a confined service token to its events.

        Raises:
            Forbidden: The token's scope does not name *event_id*.
        """
        if self.scope is not None and event_id not in self.scope:
            raise Forbidden


ANONYMOUS = Caller("", frozenset())


class KeySource(Protocol):
    """Keys for some algorithms; one source never answers for the algorithms of another."""

    @property
    def algorithms(self) -> Sequence[str]:
        """The ``alg`` values this source has keys for."""
        ...

    async def find_keys(self, header: Mapping[str, Any]) -> Sequence[Any]:
        """The keys of which a token of this header must be signed with one; at least one.

        Raises:
            Unauthenticated: There is none.
            KeysUnavailable: It cannot be said just now.
        """
        ...


class SharedSecret:
    """A secret for HS256, known to whoever makes tokens; several while one takes another's place."""

    algorithms = ("HS256",)

    def __init__(self, *secrets: str | bytes) -> None:
        self._secrets = secrets

    async def find_keys(self, header: Mapping[str, Any]) -> Sequence[str | bytes]:  # noqa: ARG002 - the same for all
        """The secrets."""
        return self._secrets


class TokenVerifier:
    """Checks bearer tokens; a token that held is remembered for up to a minute, and never past its expiry."""

    def __init__(
        self,
        sources: Sequence[KeySource],
        *,
        issuer: str,
        audience: str,
        remembered_max: int = REMEMBERED_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sources = {algorithm: source for source in sources for algorithm in source.algorithms}
        self._issuer = issuer
        self._audience = audience
        self._remembered_max = remembered_max
        self._clock = clock
        self._remembered: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def recall(self, authorization: bytes | None) -> Caller | None:
        """The caller of an ``Authorization`` header seen a moment ago: one look-up, no cryptography."""
        if authorization is None or (remembered := self._remembered.get(authorization)) is None:
            return None
        until, caller = remembered
        if self._clock() >= until:
            del self._remembered[authorization]
            return None
        self._remembered.move_to_end(authorization)
        return caller

    async def verify(self, authorization: bytes | None) -> Caller:
        """The caller of an ``Authorization`` header, checked in full.

        Raises:
            Unauthenticated: It is missing or does not hold; the reason never repeats any part of it.
            KeysUnavailable: The issuer's keys cannot be fetched.
        """
        if authorization is None:
            raise Unauthenticated("A bearer token is required.", invalid_token=False)
        claims = await self._claims(_bearer_token(authorization))
        caller = Caller(_subject(claims), _roles(claims), _scope(claims), float(claims["exp"]))
        self._remember(authorization, caller)
        return caller

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            source = self._sources.get(algorithm) if isinstance(algorithm, str) else None
            if source is None:
                raise Unauthenticated("The token is signed with an algorithm that is not accepted.")
            *others, last = await source.find_keys(header)
            for key in others:
                with suppress(jwt.InvalidSignatureError):  # looked at before anything that the token says
                    return self._decode(token, key, source.algorithms)
            return self._decode(token, last, source.algorithms)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("The token is not valid yet.") from None
        # PyJWT lets through what json and int() raise for hostile headers and claims.
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise Unauthenticated(_NOT_OURS) from None

    def _decode(self, token: str, key: Any, algorithms: Sequence[str]) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            issuer=self._issuer,
            audience=self._audience,
            options={"require": _REQUIRED},
        )

    def _remember(self, authorization: bytes, caller: Caller) -> None:
        until = min(self._clock() + REMEMBERED_S, caller.expires_at_s)
        self._remembered[authorization] = (until, caller)
        if len(self._remembered) > self._remembered_max:
            self._remembered.popitem(last=False)


def _bearer_token(authorization: bytes) -> str:
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer" or not token:
        raise Unauthenticated("A bearer token is required.", invalid_token=False)
    if len(token) > TOKEN_MAX or not token.isascii():
        raise Unauthenticated(_NOT_OURS)
    return token.strip().decode("ascii")


def _subject(claims: Mapping[str, Any]) -> str:
    """The subject becomes a customer's id in Redis and Postgres: no control characters, no lone surrogates."""
    subject = claims["sub"]
    if not isinstance(subject, str) or not 1 <= len(subject) <= SUBJECT_MAX or not subject.isprintable():
        raise Unauthenticated("The token's subject cannot be used.")
    return subject


def _roles(claims: Mapping[str, Any]) -> frozenset[str]:
    """The roles known here; an identity provider may put others beside them."""
    return ROLES & frozenset(_words(claims.get("roles", []), "roles"))


def _scope(claims: Mapping[str, Any]) -> frozenset[str] | None:
    """The events of a service token; for other callers ``scope`` is OAuth's, and no concern of ours."""
    if "scope" not in claims or SERVICE not in _roles(claims):
        return None
    return frozenset(_words(claims["scope"], "scope"))


def _words(value: Any, claim: str) -> list[str]:
    """A list of strings, or words in one string, as OAuth writes them."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unauthenticated(f"The token's {claim} must be a list of strings.")
    return words
