"""After the sale: latecomers are turned away, open answers settled, lapsed holds awaited, and everything compared."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from holdfast.compose import open_parts
from holdfast.counted import counted
from holdfast.demo.box_office import Availability, Booked, BoxOffice, decode_booking
from holdfast.demo.buyers import LAPSE_TTL_S, Latecomer
from holdfast.demo.checks import (
    differences_from_availability,
    differences_from_ledger,
    places_sold_twice,
    shorten,
)
from holdfast.demo.client import Client
from holdfast.demo.report import AuditReport, EventReport
from holdfast.demo.tally import EventTally, Tally
from holdfast.servers import any_servers
from holdfast.settings import Settings
from persistence.audit import audit_events

LAPSE_WAIT_S = LAPSE_TTL_S + 3.0  # the longest that a hold nobody wants may still be there
SETTLE_WAIT_S = 15.0  # for a booking answered 202; a confirm's time limit is 5 s
POLL_S = 0.2


async def turn_latecomers_away(latecomers: Sequence[Latecomer]) -> None:
    """Let everybody who comes back too late try."""
    async with asyncio.TaskGroup() as group:
        for latecomer in latecomers:
            group.create_task(latecomer.visit.book_too_late(latecomer))


async def settle(tally: Tally, client: Client, token: str) -> list[str]:
    """Ask after every booking that was answered 202 until it is durable; what is still open is a finding."""
    findings = []
    deadline_s = time.monotonic() + SETTLE_WAIT_S
    for books in tally.events:
        for waiting in books.confirming:
            booking = waiting
            while booking.status == "confirming" and time.monotonic() < deadline_s:
                path = f"/v1/bookings/{waiting.id}"
                booking = decode_booking(await client.require("GET", path, token=token))
                await asyncio.sleep(POLL_S)
            if booking.status == "confirmed":
                books.book(booking)
            else:
                findings.append(f"{books.event.title}: booking {booking.id} was answered 202 and is {booking.status}")
    return findings


async def inspect_event(books: EventTally, office: BoxOffice) -> tuple[EventReport, list[str]]:
    """An event's line of the report, and what is wrong with it as far as its buyers and organizer can tell."""
    event = books.event
    legs = await _without_holds(books, office)
    listed = await office.list_bookings(event)
    held = sum(counts.held for availability in legs for counts in availability.sections)
    findings = [
        *shorten(places_sold_twice(event, _together(books.confirmed, listed))),
        *shorten(differences_from_ledger(event, books.confirmed, listed, unknown=books.unknown)),
        *shorten(differences_from_availability(event, listed, legs)),
    ]
    if held:
        findings.append(f"{event.title}: {counted(held, 'place')} still held though every hold has ended")
    return _report(books, legs, held), findings


async def audit(settings: Settings, tally: Tally) -> AuditReport:
    """The server's own audit of the crowd's events: Redis against ledger and journal."""
    async with any_servers(settings) as filled, open_parts(filled) as parts:
        found = await audit_events(
            parts.kernel, parts.bookings, parts.catalog, [books.event.id for books in tally.events]
        )
    differences = [msgspec.json.encode(difference).decode() for difference in found.differences]
    differences += [f"Redis has nothing of {event.event_id}" for event in found.audited if not event.loaded]
    if found.journal.entries:
        differences.append(f"{counted(found.journal.entries, 'booking')} waiting in the journal")
    return AuditReport(events=found.events, drift=len(differences), differences=shorten(differences))


async def _without_holds(books: EventTally, office: BoxOffice) -> list[Availability]:
    """What is free and sold on each leg, once the last hold has lapsed; the last picture, if one does not."""
    deadline_s = time.monotonic() + LAPSE_WAIT_S
    while True:
        legs = await office.count_legs(books.event)
        held = any(counts.held for availability in legs for counts in availability.sections)
        if not held or time.monotonic() > deadline_s:
            return legs
        await asyncio.sleep(POLL_S)


def _together(told: Sequence[Booked], listed: Sequence[Booked]) -> list[Booked]:
    """Every booking once that buyers were told of or the ledger has: a place may not be in two of them."""
    told_ids = {booking.id for booking in told}
    return [*told, *(booking for booking in listed if booking.id not in told_ids)]


def _report(books: EventTally, legs: Sequence[Availability], held: int) -> EventReport:
    event = books.event
    return EventReport(
        id=event.id,
        title=event.title,
        name=event.name,
        seats=sum(event.capacities.values()),
        legs=event.legs,
        capacity=event.places,
        sold=books.places_sold,
        held=held,
        free=sum(counts.free for availability in legs for counts in availability.sections),
        bookings=len(books.confirmed),
        holds=books.held,
        refused=books.refused,
        abandoned=books.abandoned,
        left_with_nothing=books.left_with_nothing,
        revenue=sum(booking.amount for booking in books.confirmed),
        currency=event.currency,
    )
