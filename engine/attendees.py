"""Who sits where: the people of a booking are no more than its places have room for, each in a place that is theirs.

A place has room for one; a numbered seat that is a table, for as many as it ``fits``. Nobody has to be named, and
whoever is named needs neither a section nor a seat.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.claims import ClaimedItem, ItemRequest
from engine.errors import InvalidRequest
from engine.layout import Layout


class _Room(msgspec.Struct):
    """For how many more people there is room: by label and section in numbered seats, and by section in all.

    ``has_unknown``: of some seats only the number is known, because the best are asked for.
    """

    seats: dict[str, Counter[str]]
    sections: Counter[str]
    has_unknown: bool


def check_attendees(
    layout: Layout, items: Sequence[ItemRequest | ClaimedItem], attendees: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse people who have no place among *items*: those of a hold or booking, or those that are asked for.

    Whoever says most is seated first: who names section and seat, then a seat alone, then a section alone.

    Raises:
        InvalidRequest: They are too many, or one names a seat that is another's or not among the places.
    """
    room = _room_of(layout, items)
    if len(attendees) > room.sections.total():
        raise InvalidRequest("$.attendees", f"{len(attendees)} people, and room for {room.sections.total()}")
    unseated: Counter[str] = Counter(one["section"] for one in attendees if one.get("section") and not one.get("seat"))
    for number, one in sorted(enumerate(attendees), key=lambda numbered: _vagueness(numbered[1])):
        path, section, seat = f"$.attendees[{number}]", one.get("section"), one.get("seat")
        if section is not None and section not in room.sections:
            raise InvalidRequest(f"{path}.section", f"the booking has no place in section {section!r}")
        if seat is not None:
            _take_seat(room, section, seat, unseated, f"{path}.seat")
        elif section is not None:
            if not room.sections[section]:
                raise InvalidRequest(f"{path}.section", f"all places in section {section!r} are other attendees'")
            room.sections[section] -= 1


def _room_of(layout: Layout, items: Sequence[ItemRequest | ClaimedItem]) -> _Room:
    room = _Room({}, Counter(), has_unknown=False)
    for item in items:
        number = layout.section_index.get(item.section)
        if item.seats is not None:
            for label in item.seats:
                fits = _fits(layout, number, label)
                room.seats.setdefault(label, Counter())[item.section] = fits
                room.sections[item.section] += fits
            continue
        best = item.best if isinstance(item, ItemRequest) else None
        room.has_unknown = room.has_unknown or best is not None
        fits_max = 1 if number is None else layout.sections[number].fits_max
        room.sections[item.section] += (best or item.quantity or 0) * fits_max
    return room


def _fits(layout: Layout, section: int | None, label: str) -> int:
    """What the event does not have is refused where it is claimed, not here."""
    seat = None if section is None else layout.seat_index[section].get(label)
    return 1 if seat is None else layout.seats[seat].definition.fits or 1


def _vagueness(attendee: Mapping[str, Any]) -> int:
    return (attendee.get("seat") is None) * 2 + (attendee.get("section") is None)


def _take_seat(room: _Room, section: str | None, seat: str, unseated: Counter[str], path: str) -> None:
    left = room.seats.get(seat, Counter())
    named = [one for one in left if section in (None, one)]
    if not named:
        why = "is not known before it is held" if room.has_unknown else "is not among the booking's places"
        raise InvalidRequest(path, f"seat {seat!r} {why}")
    free = [one for one in named if left[one]]
    if not free:
        raise InvalidRequest(path, f"seat {seat!r} is another attendee's")
    # Several sections may have a seat of this label: spare the one that is needed by those who name a section alone.
    taken = max(free, key=lambda one: room.sections[one] - unseated[one])
    left[taken] -= 1
    room.sections[taken] -= 1
