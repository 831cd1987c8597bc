"""Limits of a ``holdfast serve`` with several processes, behind a proxy on a TCP port and one on a unix socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes_under_test import seconds_until
from test_cli_serve import Served, serving

BURST, ADDRESS_BURST = 6, 20
WORKERS = 2


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, sockets: Path) -> Iterator[Served]:
    with serving(
        tmp_path_factory.mktemp("serve") / "data",
        workers=WORKERS,
        HOLDFAST_UDS=str(sockets / "api"),
        HOLDFAST_RATE_LIMIT=f"1/3600+{BURST}",
        HOLDFAST_RATE_LIMIT_BY_ADDRESS=f"1/3600+{ADDRESS_BURST}",
        HOLDFAST_TRUSTED_PROXIES="unix",
    ) as running:
        seconds_until(lambda: len(running.workers()) == WORKERS, within_s=20)
        yield running


def status(served: Served | Path, path: str, *lines: str) -> int:
    """The status of a GET over a connection of its own: whichever worker takes it."""
    if isinstance(served, Path):
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        caller.connect(str(served))
    else:
        caller = socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])))
    with caller:
        caller.settimeout(10)
        head = "\r\n".join((f"GET {path} HTTP/1.1", "Host: shop.test", "Connection: close", *lines, "", ""))
        caller.sendall(head.encode())
        return int(caller.makefile("rb").readline().split()[1])


def test_a_caller_who_reaches_several_processes_in_turn_gets_exactly_the_burst(served: Served, sockets: Path) -> None:
    token = f"Authorization: Bearer {served.token('ana')}"
    origins = [f"X-Forwarded-For: 192.0.2.{number}" for number in range(3 * BURST)]

    statuses = [status(sockets / "api", "/v1/bookings", token, origin) for origin in origins]

    assert statuses == [200] * BURST + [429] * (2 * BURST)


def test_a_proxy_on_a_trusted_unix_socket_says_whose_request_it_is(served: Served, sockets: Path) -> None:
    forged = [f"X-Forwarded-For: 198.51.100.{number}, 203.0.113.1" for number in range(ADDRESS_BURST + 4)]

    statuses = [status(sockets / "api", "/v1/info", line) for line in forged]

    assert statuses == [200] * ADDRESS_BURST + [429] * 4
    assert status(sockets / "api", "/v1/info", "X-Forwarded-For: 203.0.113.2") == 200
    assert status(sockets / "api", "/healthz", "X-Forwarded-For: 203.0.113.1") == 200


def test_who_connects_directly_is_counted_by_the_address_they_have(served: Served, sockets: Path) -> None:
    statuses = [
        status(served, "/nowhere", f"X-Forwarded-For: 198.51.100.{number}", "Authorization: Bearer guessed")
        for number in range(ADDRESS_BURST + 4)
    ]

    assert statuses == [404] * ADDRESS_BURST + [429] * 4
    assert status(served, "/v1/bookings", "Authorization: Bearer guessed") == 429
    assert status(sockets / "api", "/v1/info", "X-Forwarded-For: 127.0.0.2") == 200
