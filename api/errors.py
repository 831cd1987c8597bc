"""What HTTP itself may refuse, before the engine is asked.

::

    ApiError
    ├── Unauthenticated         no token, or one that does not hold
    ├── Forbidden               the caller's roles or scope do not allow it
    ├── BadRequest              it is no HTTP as its standards have it
    ├── LengthRequired          where its body ends cannot be known
    ├── HeadTooLarge            its head takes more than is kept of one
    ├── RouteNotFound           no such URL
    ├── MethodNotAllowed        the URL is there, the method is not
    ├── PayloadTooLarge         the body is above the route's cap
    ├── UnsupportedMediaType    the body is not JSON
    │   └── ContentEncoded      the body is compressed
    ├── TooManyStreams          the caller listens to as many streams as one may
    ├── NoticeUnsigned          a payment provider's webhook cannot be believed
    └── KeysUnavailable         the issuer's keys cannot be fetched: tokens cannot be checked just now
"""

from typing import ClassVar


class ApiError(Exception):
    """Anything that the HTTP side raises on purpose."""


class Unauthenticated(ApiError):
    """Who calls is not known; ``invalid_token`` tells a token that does not hold from none at all."""

    def __init__(self, reason: str, *, invalid_token: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.invalid_token = invalid_token


class Forbidden(ApiError):
    """Who calls is known, and may not do this."""


class BadRequest(ApiError):
    """The request is not as RFC 9112 has it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LengthRequired(ApiError):
    """The request asks for another protocol, and does not tell its body's length."""


class HeadTooLarge(ApiError):
    """The head of the request, or what is around the pieces of its body, has no end in sight."""


class RouteNotFound(ApiError):
    """There is nothing under this URL."""


class MethodNotAllowed(ApiError):
    """The URL answers other methods: those in ``allow``."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(", ".join(allow))
        self.allow = allow


class PayloadTooLarge(ApiError):
    """The body is longer than ``maximum`` bytes; the rest of it has not been read."""

    def __init__(self, maximum: int) -> None:
        super().__init__(str(maximum))
        self.maximum = maximum


class UnsupportedMediaType(ApiError):
    """The body calls itself something else than JSON."""


class ContentEncoded(UnsupportedMediaType):
    """The body comes compressed, or otherwise encoded."""


class TooManyStreams(ApiError):
    """The caller listens to ``maximum`` streams of this process already."""

    retry_after_s: ClassVar[int] = 5

    def __init__(self, maximum: int) -> None:
        super().__init__(str(maximum))
        self.maximum = maximum


class NoticeUnsigned(ApiError):
    """A payment provider's webhook whose signature is wrong, too old or from the future."""


class KeysUnavailable(ApiError):
    """The keys that tokens are checked with cannot be fetched."""

    retry_after_s: ClassVar[int] = 5


class ClientGone(Exception):
    """The client hung up before its request was complete: there is nobody to answer."""
