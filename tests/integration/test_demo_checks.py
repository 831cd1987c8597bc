"""The crowd's own check finds what is planted, and its client counts what nobody expected."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

from holdfast.demo.box_office import Availability, Booked, Item, OnSale, SectionCounts
from holdfast.demo.checks import (
    SHOWN_MAX,
    differences_from_availability,
    differences_from_ledger,
    places_sold_twice,
    shorten,
)
from holdfast.demo.client import UNANSWERED, Client
from holdfast.demo.report import AuditReport, Rates, Report, is_fine, print_report

THEATRE = OnSale(kind="seats", id="t", title="Concert", name="A concert", currency="EUR", capacities={"stalls": 40})
TRAIN = OnSale(
    kind="journey",
    id="j",
    title="Train",
    name="A train",
    currency="EUR",
    capacities={"A": 4},
    stops=("P", "Q", "R", "S"),
)
MEADOW = OnSale(kind="places", id="m", title="Festival", name="A meadow", currency="EUR", capacities={"meadow": 10})
FINE_AUDIT = AuditReport(3, 0, [])


def seats(booking_id: str, *labels: str, section: str = "stalls") -> Booked:
    return Booked(booking_id, "confirmed", (Item(section, len(labels), labels),), 100)


def ride(booking_id: str, seat: str, from_stop: str, to_stop: str) -> Booked:
    return Booked(booking_id, "confirmed", (Item("A", 1, (seat,)),), 100, from_stop, to_stop)


def places(booking_id: str, quantity: int) -> Booked:
    return Booked(booking_id, "confirmed", (Item("meadow", quantity),), 100)


def test_check_finds_a_seat_that_two_bookings_have() -> None:
    (finding,) = places_sold_twice(THEATRE, [seats("b1", "A-1", "A-2"), seats("b2", "A-2", "A-3")])

    assert finding == "Concert, stalls seat A-2 was sold 2 times: b1, b2"


def test_check_finds_a_seat_that_one_booking_has_twice() -> None:
    assert places_sold_twice(THEATRE, [seats("b1", "A-1", "A-1")])


def test_check_finds_two_rides_that_overlap_on_a_leg() -> None:
    (finding,) = places_sold_twice(TRAIN, [ride("b1", "1-A", "P", "R"), ride("b2", "1-A", "Q", "S")])

    assert finding == "Train, A, Q to R seat 1-A was sold 2 times: b1, b2"


def test_check_finds_nothing_wrong_with_a_seat_sold_for_one_stretch_after_the_other() -> None:
    rides = [ride("b1", "1-A", "P", "Q"), ride("b2", "1-A", "Q", "S"), ride("b3", "1-B", "P", "S")]

    assert places_sold_twice(TRAIN, rides) == []


@pytest.mark.parametrize(("quantity", "oversold"), [(6, []), (7, ["Festival, meadow: 11 of 10 places were sold"])])
def test_check_counts_places_up_to_the_capacity(quantity: int, oversold: list[str]) -> None:
    assert places_sold_twice(MEADOW, [places("b1", 4), places("b2", quantity)]) == oversold


def test_check_finds_an_acknowledged_booking_that_the_ledger_has_not() -> None:
    told = [seats("b1", "A-1"), seats("b2", "A-2")]

    (finding,) = differences_from_ledger(THEATRE, told, told[:1], unknown=set())

    assert "b2 was acknowledged, and the ledger has not got it" in finding


def test_check_finds_a_booking_with_other_places_than_were_acknowledged() -> None:
    findings = differences_from_ledger(THEATRE, [seats("b1", "A-1")], [seats("b1", "A-2")], unknown=set())

    assert findings == ["Concert: booking b1 was acknowledged with other places than it has now"]


def test_check_finds_a_booking_nobody_was_told_of_unless_its_answer_was_lost() -> None:
    listed = [seats("b1", "A-1"), seats("b2", "A-2")]

    findings = differences_from_ledger(THEATRE, [], listed, unknown={"b2"})

    assert findings == ["Concert: the ledger has booking b1, of which no buyer was told"]


def test_check_holds_availability_against_the_bookings_leg_by_leg() -> None:
    legs = [Availability((SectionCounts("A", 4, 4 - sold, 0, sold),)) for sold in (1, 1, 0)]

    assert differences_from_availability(TRAIN, [ride("b1", "1-A", "P", "R")], legs) == []
    assert differences_from_availability(TRAIN, [ride("b1", "1-A", "P", "S")], legs) == [
        "Train, A, R to S: 0 sold, and bookings of 1"
    ]


def test_check_finds_counts_that_do_not_add_up() -> None:
    (finding,) = differences_from_availability(MEADOW, [], [Availability((SectionCounts("meadow", 10, 9, 0, 0),))])

    assert "do not add up to 10" in finding


def test_findings_are_shortened_to_the_first_few_and_a_count() -> None:
    assert shorten(["x"] * SHOWN_MAX) == ["x"] * SHOWN_MAX
    assert shorten(["x"] * (SHOWN_MAX + 3)) == ["x"] * SHOWN_MAX + ["... and 3 more like these"]


@pytest.mark.parametrize(
    ("findings", "unexpected", "audit"),
    [
        (["Concert, stalls seat A-2 was sold 2 times: b1, b2"], {}, FINE_AUDIT),
        ([], {"hold: 500 internal-error": 3}, FINE_AUDIT),
        ([], {}, AuditReport(3, 1, ["a cell nobody owns"])),
    ],
    ids=["sold twice", "unexpected answers", "drift"],
)
def test_report_is_not_fine_and_says_why(findings: list[str], unexpected: dict[str, int], audit: AuditReport) -> None:
    assert is_fine([], {}, FINE_AUDIT)
    assert not is_fine(findings, unexpected, audit)

    printed = _print(findings, unexpected, audit)
    for words in (*findings, *unexpected, *audit.differences):
        assert f"✗ {words}" in printed or f"✗ 3 x {words}" in printed


async def test_client_counts_answers_nobody_expected() -> None:
    async with _answering(b"HTTP/1.1 503 Busy\r\ncontent-length: 21\r\n\r\n" + b'{"code":"overloaded"}') as url:
        client = Client(url, connections=2)
        answers = [await client.call("hold", "POST", "/", token="t", expect=(201,)) for _ in range(3)]
        await client.aclose()

    assert [answer.status for answer in answers] == [503] * 3
    assert client.unexpected == {"hold: 503 overloaded": 3}
    assert len(client.latencies_s["hold"]) == 3


async def test_client_counts_requests_that_were_not_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", connections=1)
    answers = [await client.call("booking", "POST", "/", token="t", expect=(201,)) for _ in range(2)]
    await client.aclose()

    assert [answer.status for answer in answers] == [UNANSWERED] * 2
    assert client.unexpected == {"booking: ConnectError": 2}


@asynccontextmanager
async def _answering(response: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers everything with *response*."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(response)
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _print(findings: list[str], unexpected: dict[str, int], audit: AuditReport) -> str:
    rates = Rates(
        seconds=1.0, requests_per_s=1.0, holds_per_s=1.0, bookings_per_s=1.0, crowd_cores=0.1, cores=2, connections=1
    )
    report = Report(
        ok=False,
        buyers=1,
        seed=1,
        bookings=0,
        late_bookings_refused=0,
        events=[],
        rates=rates,
        latency={},
        unexpected=unexpected,
        findings=findings,
        audit=audit,
        server_output=[],
    )
    console = Console(file=io.StringIO(), width=200)
    print_report(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
