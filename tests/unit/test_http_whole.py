"""Whole requests are told from everything else, whatever the parser has been asked about before."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.clients import Proxies
from holdfast.http_refusals import Asker
from holdfast.http_whole import WholeRequests, asker_in, plain_target

HOST = b"Host: shop.test"


def request(*lines: bytes, line: bytes = b"POST /v1/events/e/holds HTTP/1.1", body: bytes = b"") -> bytes:
    """The bytes of a request, its length told where it has a body."""
    length = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join((line, *lines, *length, b"", b"")) + body


WHOLE = request(HOST, body=b"{}")
CHUNKED = request(HOST, b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n"
LONG = request(HOST, body=b"x" * 400)  # longer than what follows it below
NOT_ONE = {
    "nothing": b"",
    "blank lines": b"\r\n\r\n",
    "half of a head": WHOLE[:40],
    "a head without its body": WHOLE[:-2],
    "half of a body": WHOLE[:-1],
    "the rest of one": WHOLE[40:],
    "two": WHOLE * 2,
    "three": WHOLE * 3,
    "five": WHOLE * 5,
    "a long one and two more": LONG + WHOLE * 2,
    "one behind chunks": CHUNKED + WHOLE,
    "one behind chunks, twice": CHUNKED * 2 + WHOLE,
    "one and a blank line": WHOLE + b"\r\n",
    "one and a bit": WHOLE + b"P",
    "one and a half": WHOLE + WHOLE[:40],
    "in chunks": CHUNKED,
    "in chunks of nothing": request(HOST, b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "the last of its connection": request(HOST, b"Connection: close", body=b"{}"),
    "of HTTP/1.0": request(HOST, line=b"POST /v1/events/e/holds HTTP/1.0", body=b"{}"),
    "an upgrade": request(HOST, b"Connection: Upgrade", b"Upgrade: websocket", line=b"GET /v1 HTTP/1.1"),
    "another upgrade": request(HOST, b"Connection: Upgrade", b"Upgrade: h2c", body=b"{}"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two lengths": request(HOST, b"Content-Length: 3", body=b"{}"),
    "a length and chunks": request(HOST, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "a length that is no number": request(HOST, b"Content-Length: +2") + b"{}",
    "a length before a colon with a space": request(HOST, b"Content-Length : 2") + b"{}",
    "a bare line feed": WHOLE.replace(b"\r\nHost", b"\nHost"),
    "a null byte": request(b"Host: shop\0.test", body=b"{}"),
    "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
METHODS = st.sampled_from((b"GET", b"HEAD", b"POST", b"PATCH", b"DELETE"))
NAMES = st.from_regex(rb"X-[A-Za-z0-9-]{1,10}", fullmatch=True)
VALUES = st.from_regex(rb"[!-~]([\t -~\x80-\xff]{0,30}[!-~])?", fullmatch=True)
BODIES = st.binary(max_size=80)


@st.composite
def whole_requests(draw: st.DrawFn) -> bytes:
    """Any request that comes with all of its body and keeps its connection."""
    lines = [b"%b: %b" % pair for pair in draw(st.lists(st.tuples(NAMES, VALUES), max_size=8))]
    lines.insert(draw(st.integers(0, len(lines))), HOST)
    return request(*lines, line=draw(METHODS) + b" /v1/events/e HTTP/1.1", body=draw(BODIES))


@given(whole_requests())
def test_one_whole_request_is_found_and_its_head_measured(data: bytes) -> None:
    assert WholeRequests().head_length(data) == data.index(b"\r\n\r\n") + 4


@pytest.mark.parametrize("data", NOT_ONE.values(), ids=NOT_ONE.keys())
def test_anything_else_is_not_one(data: bytes) -> None:
    whole = WholeRequests()
    assert whole.head_length(data) == 0
    assert whole.head_length(WHOLE) == len(WHOLE) - 2


@given(st.lists(st.one_of(whole_requests(), st.sampled_from(tuple(NOT_ONE.values())), st.binary(max_size=40))))
def test_what_was_asked_before_makes_no_difference(asked: list[bytes]) -> None:
    whole = WholeRequests()
    assert [whole.head_length(data) for data in asked] == [WholeRequests().head_length(data) for data in asked]


class Requests:
    """What the parser of a connection makes of bytes."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.body = b""

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended += 1


def check_against_connection(data: bytes) -> None:
    """What is called one request is one, with that body, for the parser of a connection, which goes on to the next."""
    length = WholeRequests().head_length(data)
    if not length:
        return
    seen = Requests()
    parser = httptools.HttpRequestParser(seen)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
    parser.feed_data(data)
    assert (seen.begun, seen.ended, seen.body) == (1, 1, data[length:])
    parser.feed_data(WHOLE)
    assert (seen.begun, seen.ended) == (2, 2)


@given(whole_requests(), st.data())
def test_a_connection_would_have_seen_the_same_in_altered_bytes(data: bytes, draw: st.DataObject) -> None:
    position = draw.draw(st.integers(0, len(data) - 1))
    check_against_connection(
        data[:position] + draw.draw(st.binary(max_size=3)) + data[position + draw.draw(st.integers(0, 3)) :]
    )


@given(st.lists(st.one_of(whole_requests(), st.sampled_from(tuple(NOT_ONE.values()))), max_size=6))
def test_a_connection_would_have_seen_the_same_in_whatever_comes_together(pieces: list[bytes]) -> None:
    check_against_connection(b"".join(pieces))


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"POST /v1/events/e/holds HTTP/1.1", ("POST", "/v1/events/e/holds")),
        (b"GET /v1/events/e/seats?from=a&to=b HTTP/1.1", ("GET", "/v1/events/e/seats")),
        (b"GET /v1/events/e? HTTP/1.1", ("GET", "/v1/events/e")),
        (b"GET /v1/events/h%6flds HTTP/1.1", None),
        (b"GET /v1/events/e?a=%20 HTTP/1.1", None),
        (b"GET http://shop.test/v1/events HTTP/1.1", None),
        (b"GET /healthz#/seats HTTP/1.1", None),
        (b"GET /healthz?a#/seats HTTP/1.1", None),
        (b"OPTIONS * HTTP/1.1", None),
        (b"GET  /v1/events HTTP/1.1", None),
        (b"GET /v1/events HTTP/1.0", None),
        (b"GET /v1/events", None),
        (b"", None),
    ],
)
def test_only_a_plain_target_is_read(line: bytes, target: tuple[str, str] | None) -> None:
    assert plain_target(request(HOST, line=line)) == target


@pytest.mark.parametrize(
    ("lines", "asker"),
    [
        ((HOST,), Asker(b"shop.test")),
        ((b"HOST: \tshop.test",), Asker(b"shop.test")),
        ((HOST + b" \t",), Asker(b"shop.test \t")),  # as the parser leaves it
        ((HOST, b"x-request-id: mine"), Asker(b"shop.test", b"mine")),
        ((HOST, b"X-Forwarded-Proto: https"), Asker(b"shop.test", scheme="https")),
        ((HOST, b"X-Forwarded-Proto: gopher"), Asker(b"shop.test")),
        ((HOST, b"X-Hosts: a", b"Not-Host: b", b"Hostess: c"), Asker(b"shop.test")),
        ((HOST, b"host: other.test"), None),
        ((HOST, b"X-Request-ID: a", b"x-request-id: b"), None),
        ((b"Accept: */*",), None),
    ],
)
def test_who_asks_is_read_from_the_head_alone(lines: tuple[bytes, ...], asker: Asker | None) -> None:
    data = request(*lines, body=b"\r\nHost: of.the.body\r\nX-Request-ID: theirs\r\n")
    length = WholeRequests().head_length(data)
    assert asker_in(data, length, Proxies(), "http", None, ("127.0.0.1", 1)) == asker
