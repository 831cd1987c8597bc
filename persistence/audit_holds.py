"""Holds of a picture: their records, their deadlines, and the places they add to the tally."""

from collections.abc import Iterator

from engine.events import SellableEvent
from engine.ids import claim_id_of
from engine.loading import NEVER_MS
from engine.records import parse_hold_record
from persistence.audit_customers import CustomerSums
from persistence.audit_picture import Picture
from persistence.audit_tally import Tally
from persistence.differences import Difference, name_seat


def hold_differences(
    event: SellableEvent, picture: Picture, tally: Tally, customers: CustomerSums
) -> Iterator[Difference]:
    """Count every live hold in; yields records that cannot be, and seats that two of them have."""
    event_id = event.event.id
    for key, text in picture.holds.items():
        subject = claim_id_of(key.decode(), event_id)
        try:
            hold = parse_hold_record(key, text)
            if hold.quantity != hold.places.quantity:
                raise ValueError(f"it says {hold.quantity} places and names {hold.places.quantity}")
            twice = tally.add("held", hold.places)
        except ValueError as error:
            yield Difference(event_id, "record_wrong", subject=subject, redis=str(error))
            continue
        customers.add(hold.owner, hold.quantity)
        deadline_ms = picture.deadlines.get(key)
        if deadline_ms != hold.deadline_ms:
            yield Difference(event_id, "expiry_wrong", subject=subject, redis=deadline_ms, ledger=hold.deadline_ms)
        for seat, leg in twice:
            section, label = name_seat(event.layout, seat)
            yield Difference(event_id, "claimed_twice", section, label, leg, subject, redis="held twice")


def deadline_differences(event_id: str, picture: Picture) -> Iterator[Difference]:
    """Deadlines without a hold, and earliest deadlines that are not the earliest."""
    for key in picture.deadlines.keys() - picture.holds.keys():
        yield Difference(
            event_id, "hold_lost", subject=claim_id_of(key.decode(), event_id), redis=picture.deadlines[key]
        )
    earliest_ms = min(picture.deadlines.values(), default=NEVER_MS)
    due_ms = int(picture.state["due"])
    if due_ms != earliest_ms:
        yield Difference(event_id, "due_wrong", subject="due", redis=due_ms, ledger=earliest_ms)
    if (picture.wakeup_ms or NEVER_MS) != earliest_ms:
        yield Difference(event_id, "due_wrong", subject="wakeups", redis=picture.wakeup_ms, ledger=earliest_ms)
