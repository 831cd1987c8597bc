"""The crowd's own check of the sale: from what buyers were told alone, then against what the API tells the organizer.

It shares no code with the server's audit, and looks at nothing but answers.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from holdfast.demo.box_office import Availability, Booked, OnSale

SHOWN_MAX = 5  # findings of one kind and event; one more line says how many there are

Cell = tuple[str, str, int]  # section, seat, leg


def places_sold_twice(event: OnSale, bookings: Sequence[Booked]) -> list[str]:
    """Every seat of a leg that two bookings have, and every section and leg with more sold than there is."""
    holders: defaultdict[Cell, list[str]] = defaultdict(list)
    for booking in bookings:
        for cell in _cells(event, booking):
            if cell[1]:
                holders[cell].append(booking.id)
    findings = [
        f"{_place(event, section, leg)} seat {seat} was sold {len(ids)} times: {', '.join(ids)}"
        for (section, seat, leg), ids in holders.items()
        if len(ids) > 1
    ]
    for (section, leg), sold in _sold_by_leg(event, bookings).items():
        capacity = event.capacities.get(section, 0)
        if sold > capacity:
            findings.append(f"{_place(event, section, leg)}: {sold} of {capacity} places were sold")
    return findings


def differences_from_ledger(
    event: OnSale, told: Sequence[Booked], listed: Sequence[Booked], *, unknown: set[str]
) -> list[str]:
    """Bookings that buyers were told of and the ledger has not, or has otherwise; and the other way round.

    *unknown* are the holds whose confirmation was not answered: the ledger may have them.
    """
    in_ledger = {booking.id: booking for booking in listed}
    findings = []
    for booking in told:
        kept = in_ledger.pop(booking.id, None)
        if kept is None:
            findings.append(f"{event.title}: booking {booking.id} was acknowledged, and the ledger has not got it")
        elif Counter(_cells(event, kept)) != Counter(_cells(event, booking)) or kept.amount != booking.amount:
            findings.append(f"{event.title}: booking {booking.id} was acknowledged with other places than it has now")
    findings += [
        f"{event.title}: the ledger has booking {booking_id}, of which no buyer was told"
        for booking_id in in_ledger.keys() - unknown
    ]
    return findings


def differences_from_availability(event: OnSale, listed: Sequence[Booked], legs: Sequence[Availability]) -> list[str]:
    """Sections and legs whose counts are not those of the bookings, or do not add up."""
    sold = _sold_by_leg(event, listed)
    findings = []
    for leg, availability in enumerate(legs):
        for counts in availability.sections:
            place = _place(event, counts.id, leg)
            if counts.sold != sold.get((counts.id, leg), 0):
                findings.append(f"{place}: {counts.sold} sold, and bookings of {sold.get((counts.id, leg), 0)}")
            if counts.free + counts.held + counts.sold != counts.capacity:
                findings.append(f"{place}: free, held and sold do not add up to {counts.capacity}: {counts}")
    return findings


def shorten(findings: Sequence[str]) -> list[str]:
    """The first few, and how many more there are."""
    if len(findings) <= SHOWN_MAX:
        return list(findings)
    return [*findings[:SHOWN_MAX], f"... and {len(findings) - SHOWN_MAX} more like these"]


def _cells(event: OnSale, booking: Booked) -> Iterator[Cell]:
    """Seat by seat and leg by leg; counted places come as cells without a name, as often as they are taken."""
    first, last = event.leg_range(booking.from_, booking.to)
    for item in booking.items:
        for leg in range(first, last):
            for seat in item.seats if item.seats is not None else [""] * item.quantity:
                yield item.section, seat, leg


def _sold_by_leg(event: OnSale, bookings: Sequence[Booked]) -> Mapping[tuple[str, int], int]:
    return Counter((section, leg) for booking in bookings for section, _, leg in _cells(event, booking))


def _place(event: OnSale, section: str, leg: int) -> str:
    if not event.stops:
        return f"{event.title}, {section}"
    return f"{event.title}, {section}, {event.stops[leg]} to {event.stops[leg + 1]}"
