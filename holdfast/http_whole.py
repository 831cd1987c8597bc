"""A look at bytes that may be one whole request, before the parser of their connection has them.

What is turned away needs no scope, no list of headers and no task: only its target, to know what it asks for, and then
whether it is one request and all of it. That is said by httptools, as of every other request, so that no two readers
can differ on where one begins and ends; but by one parser for all connections, which tells nothing else and so costs
next to nothing.
"""

import re

import httptools

from api.clients import Proxies
from holdfast.http_refusals import Asker, Client, Server

_PLAIN_TARGET = re.compile(rb"([A-Z]+) (/[^ %#?\r\n]*)(?:\?[^ %#\r\n]*)? HTTP/1\.1\r\n")
_TOLD = re.compile(rb"\r\n(?i:(host|x-request-id|x-forwarded-proto)):[ \t]*([^\r]*)")


class WholeRequests:
    """Tells one whole request from anything else; between two questions its parser is between two requests."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._begun = 0  # requests
        self._is_one = False
        self._body = b""

    def head_length(self, data: bytes) -> int:
        """How long the head is of the one whole request that *data* is and that keeps its connection; 0 if it is not.

        One whose body comes in chunks is none of them.
        """
        self._begun, self._is_one, self._body = 0, False, b""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._is_one = False
        if not self._is_one:
            self._parser = httptools.HttpRequestParser(self)  # it may have stopped in the middle of something
            return 0
        # It reads over blank lines after a request. What they hide of where the body begins is blank as well.
        return len(data) - len(self._body) if data.endswith(self._body) else 0

    # What httptools calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begun += 1
        self._is_one = False

    def on_body(self, body: bytes) -> None:
        """Its body: all of it, where it comes neither in chunks nor in parts."""
        self._body = body

    def on_chunk_header(self) -> None:
        """Its body comes in chunks: it counts as more than one."""
        self._begun += 1

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._is_one = self._begun == 1 and self._parser.should_keep_alive()


def plain_target(data: bytes) -> tuple[str, str] | None:
    """Method and path of the request that *data* begins with, if its path is a plain one; the rest is not looked at."""
    found = _PLAIN_TARGET.match(data)
    if found is None:
        return None
    return found[1].decode("latin-1"), found[2].decode("latin-1")


def asker_in(data: bytes, length: int, proxies: Proxies, ours: str, server: Server, client: Client) -> Asker | None:
    """Who sent a request whose head is the first *length* bytes of *data*; ``None`` if it says so twice, or not at all.

    *ours* is the scheme of the connection, *server* and *client* are its ends.
    """
    told: dict[bytes, bytes] = {}
    for name, value in _TOLD.findall(data, 0, length):
        name = name.lower()
        if name in told:
            return None
        told[name] = value
    if b"host" not in told:
        return None
    scheme = proxies.scheme_of(told[b"x-forwarded-proto"], client, ours) if b"x-forwarded-proto" in told else ours
    return Asker(told[b"host"], told.get(b"x-request-id"), data.startswith(b"HEAD "), scheme, server)
