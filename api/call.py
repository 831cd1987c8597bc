"""One HTTP call as the handlers see it."""

import functools
import itertools
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope

from api.errors import ClientGone, PayloadTooLarge
from api.identity import ANONYMOUS, Caller
from engine.once import Once

if TYPE_CHECKING:  # services are made of parts that know of calls
    from api.services import Services

TakeBody = Callable[[], bytes | None]
"""Hands over a request's body, once; ``None`` if it is not all there, and is to be read as ASGI has it."""

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
_SANE_HOST = re.compile(rb"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_PROCESS_ID = os.urandom(8).hex().encode("ascii")  # so that no two processes ever make the same id of a request
_numbers = itertools.count()
_LENGTH_DIGITS_MAX = 18  # of a Content-Length; int() of a longer one is work for nothing


class Call:
    """A request, what is known of it so far, and the services to answer it with.

    ``route_path`` is the template of its URL, ``params`` what stands in its braces, ``once`` the digests of its
    idempotency key, if it has one that the engine is to look after, ``left_of_caller`` and ``left_of_address`` how many
    may follow by the limits that count it.
    """

    __slots__ = (
        "_public_url",
        "body",
        "caller",
        "headers",
        "left_of_address",
        "left_of_caller",
        "once",
        "params",
        "query_string",
        "request_id",
        "root_path",
        "route_path",
        "scope",
        "services",
    )

    def __init__(self, scope: Scope, services: "Services", *, public_url: str | None) -> None:
        self.scope = scope
        self.services = services
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.request_id = request_id(self.headers.get(b"x-request-id"))
        self.query_string: bytes = scope["query_string"]
        self.root_path: str = scope.get("root_path", "")
        self.route_path = ""
        self.params: Mapping[str, str] = {}
        self.caller: Caller = ANONYMOUS
        self.body = b""
        self.once: Once | None = None
        self.left_of_caller: int | None = None
        self.left_of_address: int | None = None
        self._public_url = public_url

    @property
    def base_url(self) -> str:
        """Where this installation is reached: as configured, or as the client reached it."""
        if self._public_url is not None:
            return self._public_url
        scope = self.scope
        scheme: str = scope.get("scheme", "http")
        if (said := self.headers.get(b"x-forwarded-proto")) is not None:
            scheme = self.services.proxies.scheme_of(said, scope.get("client"), scheme)
        return base_url_of(self.headers.get(b"host", b""), scheme, scope.get("server")) + self.root_path

    def tell_left(self, of_caller: int | None, of_address: int | None) -> None:
        """Note what the limits leave; what is not known now may have been before."""
        if of_caller is not None:
            self.left_of_caller = of_caller
        if of_address is not None:
            self.left_of_address = of_address

    def location(self, path: str) -> tuple[bytes, bytes]:
        """A ``Location`` header for a path of this application."""
        return (b"location", f"{self.root_path}{path}".encode())


@functools.lru_cache(maxsize=128)  # one host, as a rule; whoever makes up others gains nothing
def base_url_of(host: bytes, scheme: str, server: tuple[str, int | None] | None) -> str:
    """Where a client reached us, by its ``Host`` header; by our own end of the connection where that is nonsense."""
    if _SANE_HOST.fullmatch(host) is None:
        name, port = server or ("localhost", 80)
        host = f"{name}:{port}".encode() if port is not None else b"localhost"  # of a unix socket: path, None
    return f"{scheme}://{host.decode('ascii')}"


def request_id(given: bytes | None) -> bytes:
    """The client's request id when it can be repeated in headers and logs; a fresh one otherwise."""
    if given is not None and _SANE_REQUEST_ID.fullmatch(given) is not None:
        return given
    return b"%b%010x" % (_PROCESS_ID, next(_numbers))


def whole_body(receive: Receive, headers: Mapping[bytes, bytes], *, maximum: int) -> bytes | None:
    """The request's body where the server has all of it and can hand it over at once; else it is to be read.

    Raises:
        PayloadTooLarge: It is longer than *maximum*.
    """
    _check_length(headers, maximum)
    # As with answers, the server is asked through *receive* itself, so that nobody who wraps that is left out.
    take_body: TakeBody | None = getattr(getattr(receive, "__self__", None), "take_body", None)
    body = None if take_body is None else take_body()
    if body is not None and len(body) > maximum:
        raise PayloadTooLarge(maximum)
    return body


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, maximum: int) -> bytes:
    """The request's body.

    Raises:
        PayloadTooLarge: It is longer than *maximum*, by its header or as it came; reading stopped there.
        ClientGone: The client hung up in the middle.
    """
    _check_length(headers, maximum)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > maximum:
            raise PayloadTooLarge(maximum)
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        chunks.append(chunk)


def _check_length(headers: Mapping[bytes, bytes], maximum: int) -> None:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX or int(length) > maximum:
        raise PayloadTooLarge(maximum)
