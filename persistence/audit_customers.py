"""Customers' totals, which limits are kept by, against the records; in memory that does not grow with customers.

Totals are first summed by a hash of the customer. Only where a sum is wrong are its customers told apart, in a second
pass. Two wrong totals that cancel out and share one of the buckets go unseen until either changes.
"""

import binascii
from array import array
from collections import Counter
from collections.abc import Collection, Mapping

from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.records import parse_booking_record, parse_hold_record, scan_hash
from persistence.differences import Difference

BUCKETS = 65_536


class CustomerSums:
    """Places by customer's bucket, as the records have them."""

    def __init__(self) -> None:
        self._sums = array("q", bytes(8 * BUCKETS))

    def add(self, customer: str, quantity: int) -> None:
        """Count places of one record."""
        self._sums[_bucket(customer.encode())] += quantity

    async def compare(
        self, kernel: Kernel, event: SellableEvent, *, holds: Mapping[bytes, bytes], leave_out: Collection[str]
    ) -> list[Difference]:
        """Totals that are wrong; *leave_out* are customers whose bookings are disputed. Empties the sums."""
        async for batch in scan_hash(kernel, event, "users"):
            for customer, total in batch:
                self._sums[_bucket(customer)] -= int(total)
        suspects = {bucket for bucket, rest in enumerate(self._sums) if rest}
        return await _tell_apart(kernel, event, suspects, holds, leave_out) if suspects else []


async def _tell_apart(
    kernel: Kernel,
    event: SellableEvent,
    suspects: Collection[int],
    holds: Mapping[bytes, bytes],
    leave_out: Collection[str],
) -> list[Difference]:
    expected: Counter[str] = Counter()
    for hold in (parse_hold_record(*member) for member in holds.items()):
        if _bucket(hold.owner.encode()) in suspects:
            expected[hold.owner] += hold.quantity
    async for batch in scan_hash(kernel, event, "bookings"):
        for booking in (parse_booking_record(*member) for member in batch):
            if _bucket(booking.owner.encode()) in suspects:
                expected[booking.owner] += booking.quantity
    stored: dict[str, int] = {}
    async for batch in scan_hash(kernel, event, "users"):
        stored.update((name.decode(), int(total)) for name, total in batch if _bucket(name) in suspects)
    return [
        Difference(
            event.event.id, "customer_wrong", subject=customer, redis=stored.get(customer, 0), ledger=expected[customer]
        )
        for customer in sorted(expected.keys() | stored.keys())
        if customer not in leave_out and stored.get(customer, 0) != expected[customer]
    ]


def _bucket(customer: bytes) -> int:
    return binascii.crc32(customer) % BUCKETS
