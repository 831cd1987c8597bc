"""After a fault: what the clients were told, what the ledger has and what Redis has are one and the same story."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator

import msgspec
from crowd import Crowd
from linearizability import check_history
from on_sale import OnSale
from recording import Operation, Place, now
from rig import Rig

from engine.errors import Unavailable
from engine.ids import claim_id
from engine.records import scan_hash
from holdfast.compose import Parts, open_parts
from persistence.audit import Audit, audit_events

WHOLE_WITHIN_S = 60.0  # drift is found and repaired, and the journal empty, within this (P8)
POLL_S = 0.2
FINDINGS_MAX = 10  # of one kind; one more line says how many there are
OWNING = ("confirmed", "checked_in", "completed", "pending", "paid")
_BOOKINGS = """
    SELECT id, event_id, customer_id, status, items, from_stop, to_stop FROM bookings WHERE event_id = ANY($1::text[])
"""

Cell = tuple[str, str, str, int]  # event, section, seat, leg


class Fault(msgspec.Struct):
    """When something was broken, and when the test had made it whole again; the same moment where it breaks nothing."""

    began: float
    ended: float


@contextlib.contextmanager
def fault() -> Iterator[Fault]:
    """The fault is what the block does."""
    window = Fault(now(), 0.0)
    yield window
    window.ended = now()


class Figures(msgspec.Struct, kw_only=True):
    """What is reported of a fault. Bookings are *lost* that were acknowledged and are not in the ledger; *duplicates*
    are places with two bookings; *unknown* are operations whose outcome no client ever learned."""

    operations: int
    acknowledged: int
    lost: int
    duplicates: int
    unknown: int
    recovery_s: float | None
    """From the end of the fault to the first hold and the first booking that began after the fault had."""
    whole_s: float
    """From the end of the load until the audit found nothing more to say and the journal was empty."""
    late: int
    """Bookings that were answered 202 first."""
    findings: list[str]


class _Booking(msgspec.Struct, frozen=True):
    id: str
    customer: str
    places: tuple[Place, ...]
    owning: bool


async def check(rig: Rig, crowd: Crowd, window: Fault | None = None, *, holds_are_kept: bool = False) -> Figures:
    """Compare everything with everything; the servers must be up, and may still be settling.

    *holds_are_kept* says that Redis has lost nothing in the run: then holds are promises too.
    """
    operations = crowd.recording.operations
    async with open_parts(rig.settings) as parts:
        whole_s, drift = await _until_whole(parts, list(crowd.events))
        strangers = [line async for line in _unknown_holds(parts, crowd)]
    bookings = await _ledger_bookings(rig, crowd.events)
    acknowledged = [one for one in operations if one.op in ("confirm", "book") and one.outcome == "ok"]
    lost = list(_lost(acknowledged, bookings))
    duplicates = list(_twice(crowd.events, bookings, acknowledged))
    verdict = check_history(operations, _capacities(crowd.events), holds_are_kept=holds_are_kept)
    print(f"\n{verdict}")
    findings = [
        *crowd.findings,
        *drift,
        *_shorten(verdict.findings),
        *_shorten(lost),
        *_shorten(duplicates),
        *_shorten(strangers),
        *_shorten(_unasked(operations, bookings)),
        *await _miscounted(rig, crowd.events, bookings),
    ]
    if findings:
        print(*rig.complaints(), sep="\n")  # pytest shows it with the failure
    return Figures(
        operations=len(operations),
        acknowledged=len(acknowledged),
        lost=len(lost),
        duplicates=len(duplicates),
        unknown=sum(1 for one in operations if one.outcome == "unknown"),
        recovery_s=_recovery_s(operations, window) if window is not None else None,
        whole_s=whole_s,
        late=len(crowd.late_s),
        findings=findings,
    )


def _capacities(events: dict[str, OnSale]) -> dict[tuple[str, str], int]:
    return {(event.id, section): size for event in events.values() for section, size in event.capacities.items()}


async def _until_whole(parts: Parts, event_ids: list[str]) -> tuple[float, list[str]]:
    """Seconds until the audit agrees and the journal is empty; what is still wrong when that takes too long."""
    began_s = time.monotonic()
    audit: Audit | None = None
    while time.monotonic() - began_s < WHOLE_WITHIN_S:
        with contextlib.suppress(Unavailable):
            audit = await audit_events(parts.kernel, parts.bookings, parts.catalog, event_ids)
            if audit.drift == 0 and audit.journal.entries == 0:
                return time.monotonic() - began_s, []
        await asyncio.sleep(POLL_S)
    if audit is None:
        return WHOLE_WITHIN_S, [f"no audit was possible for {WHOLE_WITHIN_S:g} s"]
    found = _shorten(f"drift: {msgspec.json.encode(difference).decode()}" for difference in audit.differences)
    if audit.journal.entries:
        found.append(f"{audit.journal.entries} entries are still in the journal")
    return WHOLE_WITHIN_S, found


async def _unknown_holds(parts: Parts, crowd: Crowd) -> AsyncIterator[str]:
    """Live holds that no client was told of, though their customer's every request was answered: a second effect."""
    told = {one.hold_id for one in crowd.recording.operations if one.op in ("hold", "book") and one.outcome == "ok"}
    in_doubt = {one.customer for one in crowd.recording.operations if one.outcome == "unknown"}
    for event_id in crowd.events:
        async for batch in scan_hash(parts.kernel, await parts.catalog.get(event_id), "holds"):
            for key, record in batch:
                owner = record.decode().rsplit("|", 1)[-1]
                if f"{key.decode()}~{event_id}" not in told and owner not in in_doubt:
                    yield f"hold {key.decode()}~{event_id} of {owner} was made, and nobody was told"


async def _ledger_bookings(rig: Rig, events: dict[str, OnSale]) -> dict[str, _Booking]:
    found = {}
    for row in await rig.database.fetch(_BOOKINGS, list(events)):
        booking_id = claim_id(row["id"].int, row["event_id"])
        shown = {"items": msgspec.json.decode(row["items"]), "from": row["from_stop"], "to": row["to_stop"]}
        places = events[row["event_id"]].places_of(shown)
        found[booking_id] = _Booking(booking_id, row["customer_id"], places, row["status"] in OWNING)
    return found


def _lost(acknowledged: Iterable[Operation], bookings: dict[str, _Booking]) -> Iterable[str]:
    for one in acknowledged:
        booking = bookings.get(one.booking_id or "")
        if booking is None:
            yield f"booking {one.booking_id} was acknowledged, and the ledger has not got it"
        elif (booking.customer, booking.places) != (one.customer, one.places):
            yield f"booking {one.booking_id} was acknowledged as {one.customer} {one.places}, and is {booking}"


def _twice(
    events: dict[str, OnSale], bookings: dict[str, _Booking], acknowledged: Iterable[Operation]
) -> Iterable[str]:
    """Places of two bookings, be they in the ledger or in what clients were told."""
    holders: defaultdict[Cell, set[str]] = defaultdict(set)
    counted: defaultdict[tuple[str, str, int], dict[str, int]] = defaultdict(dict)
    owned = [(one.id, one.places) for one in bookings.values() if one.owning]
    owned += [(one.booking_id or "", one.places) for one in acknowledged]
    for booking_id, places in owned:
        event_id = booking_id.partition("~")[2]
        for place in places:
            for leg in range(place.first_leg, place.last_leg):
                if place.seat is not None:
                    holders[event_id, place.section, place.seat, leg].add(booking_id)
                else:
                    counted[event_id, place.section, leg][booking_id] = place.quantity
    for cell, ids in holders.items():
        if len(ids) > 1:
            yield f"{cell} is in {sorted(ids)}"
    for (event_id, section, leg), quantities in counted.items():
        if sum(quantities.values()) > events[event_id].capacities[section]:
            yield f"{section} of {event_id}, leg {leg}: {sum(quantities.values())} places are sold"


def _unasked(operations: Iterable[Operation], bookings: dict[str, _Booking]) -> Iterable[str]:
    """Bookings of customers who were told that they have none, or nothing else than another one."""
    told = {one.booking_id for one in operations if one.outcome in ("ok", "unknown")}
    in_doubt = {one.customer for one in operations if one.outcome == "unknown"}
    for booking in bookings.values():
        if booking.id not in told and booking.customer not in in_doubt:
            yield f"the ledger has {booking}, and its customer was not told"


async def _miscounted(rig: Rig, events: dict[str, OnSale], bookings: dict[str, _Booking]) -> list[str]:
    """Sections whose free, held and sold do not add up, or whose sold is not what the ledger's bookings are."""
    sold: Counter[tuple[str, str, int]] = Counter()
    for booking in bookings.values():
        for place in booking.places if booking.owning else ():
            for leg in range(place.first_leg, place.last_leg):
                sold[booking.id.partition("~")[2], place.section, leg] += place.quantity
    findings = []
    for event in events.values():
        for leg in range(event.legs):
            stretch = f"?from={event.stops[leg]}&to={event.stops[leg + 1]}" if event.stops else ""
            shown = await rig.organize("GET", f"/v1/events/{event.id}/availability{stretch}")
            for section in shown["sections"]:
                name, capacity = section["id"], event.sections[section["id"]]
                if section["free"] + section["held"] + section["sold"] != capacity:
                    findings.append(f"{event.id}, leg {leg}: {section} is not {capacity} places")
                if section["sold"] != sold[event.id, name, leg]:
                    findings.append(f"{event.id}, leg {leg}: {section}, and {sold[event.id, name, leg]} are sold")
    return findings


def _recovery_s(operations: Iterable[Operation], window: Fault) -> float:
    """Infinite when nothing succeeded afterwards."""
    slowest = 0.0
    for kinds in (("hold",), ("confirm", "book")):
        ends = [
            one.completed_at
            for one in operations
            if one.op in kinds and one.outcome == "ok" and one.completed_at is not None
            if one.completed_at > window.ended and (one.invoked_at >= window.began or one.attempts > 1)
        ]
        slowest = max(slowest, min(ends, default=float("inf")) - window.ended)
    return slowest


def _shorten(findings: Iterable[str]) -> list[str]:
    listed = list(findings)
    if len(listed) <= FINDINGS_MAX:
        return listed
    return [*listed[:FINDINGS_MAX], f"... and {len(listed) - FINDINGS_MAX} more like these"]
