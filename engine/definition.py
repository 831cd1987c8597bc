"""What an organizer says an event is: sections, seats, legs, prices and policy, as read from JSON and stored as JSON.

Types and ranges are checked here, by msgspec, which names the JSON path of what is wrong. What one field says of
another (a seat twice, a price list of the wrong length) is checked when ``engine.layout`` compiles the definition.
"""

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import msgspec

EVENT_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}\Z"
SECTIONS_MAX = 500  # every section has three counters per leg in one Redis hash
STOPS_MAX = 200  # the longest timetable run known to us has 96 stops
SLOTS_MAX = 288  # a day in five-minute slots
PRICE_MAX = 10**9  # ten million euros in cents
CAPACITY_MAX = 10_000_000
PLACES_PER_HOLD_MAX = 500  # bounds the work of one script call
METADATA_MAX = 64  # members
ADMISSION_RATE_MAX = 10_000  # customers a second; as many as all processes of a large machine can serve

EventId = Annotated[str, msgspec.Meta(pattern=EVENT_ID_PATTERN)]
CLOCK_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z"
CURRENCY_PATTERN = r"^[A-Z]{3}\Z"
# Names are the organizer's words ("Balcony left", "1A"); control characters are refused because names end up in
# headers, logs and terminals.
PRINTABLE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]+\Z"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=PRINTABLE_PATTERN)]
PlaceName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=PRINTABLE_PATTERN)]
Price = Annotated[
    int,
    msgspec.Meta(
        ge=0,
        le=PRICE_MAX,
        description="In minor units of the currency: 4550 is 45.50 EUR.",
        extra={"hint": "prices are integers in minor units of the currency, 4550 for 45.50 EUR"},
    ),
]
MOMENT_SAMPLE = "2027-05-01T19:00:00Z"
Moment = Annotated[dt.datetime, msgspec.Meta(tz=True, extra={"hint": f"a moment with a zone, such as {MOMENT_SAMPLE}"})]
ClockTime = Annotated[str, msgspec.Meta(pattern=CLOCK_PATTERN)]
Metadata = Annotated[dict[Annotated[str, msgspec.Meta(max_length=64)], Any], msgspec.Meta(max_length=METADATA_MAX)]


class SeatDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One numbered seat; ``fits`` is the party size of a table, ``x``/``y`` its position in the drawing's units."""

    id: PlaceName
    x: float | None = None
    y: float | None = None
    category: PlaceName | None = None
    accessible: bool = False
    fits: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None


class RowDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A row of seats in the order in which people sit.

    ``seats`` is a range (``"1-20"``) or a list. ``aisles_after`` names the seats behind which an aisle runs: seats on
    two sides of an aisle are not neighbours.
    """

    id: PlaceName
    seats: Annotated[str, msgspec.Meta(max_length=32)] | list[PlaceName | SeatDefinition]
    aisles_after: list[PlaceName] = []


class SectionDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the event with its own price: counted (``capacity``) or seated (``rows``).

    ``price`` is per place. ``prices`` gives another one to the seats of a category; ``leg_prices`` replaces it by one
    per leg, summed over the range sold.
    """

    id: PlaceName
    name: Name | None = None
    price: Price | None = None
    capacity: Annotated[int, msgspec.Meta(ge=1, le=CAPACITY_MAX)] | None = None
    rows: Annotated[list[RowDefinition], msgspec.Meta(min_length=1)] | None = None
    prices: dict[PlaceName, Price] | None = None
    leg_prices: list[Price] | None = None


class SlotsDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Time slots of equal length, the first at ``start`` o'clock."""

    start: ClockTime
    minutes: Annotated[int, msgspec.Meta(ge=1, le=1440)]
    count: Annotated[int, msgspec.Meta(ge=1, le=SLOTS_MAX)]


class RefundTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who cancels at least ``hours_before`` the start gets ``percent`` back."""

    hours_before: Annotated[int, msgspec.Meta(ge=0, le=8760)]
    percent: Annotated[int, msgspec.Meta(ge=0, le=100)]


class AdmissionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How customers are let in to an event's holds: ``rate`` of them a second, each for ``ticket_ttl`` seconds."""

    rate: Annotated[int, msgspec.Meta(ge=1, le=ADMISSION_RATE_MAX)]
    ticket_ttl: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 600

    @property
    def interval_us(self) -> int:
        """Microseconds from one customer's turn to the next; rounded up, so that no more than ``rate`` come."""
        return -(-1_000_000 // self.rate)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of sale; durations in seconds.

    ``one_booking_per_customer`` allows a customer one live booking of the event. ``after_event`` is what becomes of
    confirmed bookings when it has ended; who was checked in has ``completed`` in any case but ``keep``.
    ``late_payment`` is what becomes of a payment that arrives when its hold is gone: the same places are booked if they
    are still free, or it is refunded at once. ``pricing`` and ``inventory`` name who is asked beside Holdfast.
    With ``admission`` customers need a ticket of the event's admission queue to hold or book places.
    """

    hold_ttl: Annotated[int, msgspec.Meta(ge=1, le=604_800)] = 120
    hold_ttl_max: Annotated[int, msgspec.Meta(ge=1, le=604_800)] = 900
    max_places_per_hold: Annotated[int, msgspec.Meta(ge=1, le=PLACES_PER_HOLD_MAX)] = 10
    max_places_per_customer: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20
    approval: Literal["auto", "manual"] = "auto"
    approval_ttl: Annotated[int, msgspec.Meta(ge=1, le=31_536_000)] = 86_400
    payment: Literal["none", "required"] = "none"
    payment_ttl: Annotated[int, msgspec.Meta(ge=1, le=604_800)] = 600
    sales_close_before: Annotated[int, msgspec.Meta(ge=0, le=31_536_000)] = 0
    refunds: list[RefundTier] = msgspec.field(
        default_factory=lambda: [RefundTier(24, 100), RefundTier(2, 50), RefundTier(0, 0)]
    )
    overbooking_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    orphan_seats: Literal["allow", "avoid"] = "allow"
    waitlist: bool = True
    offer_ttl: Annotated[int, msgspec.Meta(ge=1, le=2_592_000)] = 86_400
    durability: Literal["postgres", "redis"] = "postgres"
    one_booking_per_customer: bool = False
    after_event: Literal["keep", "complete", "no_show"] = "keep"
    late_payment: Literal["book", "refund"] = "book"
    pricing: Literal["fixed", "service"] = "fixed"
    inventory: Literal["none", "service"] = "none"
    admission: AdmissionPolicy | None = None


if TYPE_CHECKING:
    PolicyPatch = Policy
else:  # the same members with the same bounds, of which all may be left out
    PolicyPatch = msgspec.defstruct(
        "PolicyPatch",
        [
            (name, hint | msgspec.UnsetType, msgspec.UNSET)
            for name, hint in get_type_hints(Policy, include_extras=True).items()
        ],
        namespace={"__doc__": "The members of an event's policy that a change names; the others stay as they are."},
        module=__name__,
        frozen=True,
        forbid_unknown_fields=True,
    )


class EventDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything an organizer decides about an event; money is in minor units of ``currency``.

    Times are given in any zone, and told in UTC.
    """

    name: Name
    starts_at: Moment
    currency: Annotated[str, msgspec.Meta(pattern=CURRENCY_PATTERN)]
    sections: Annotated[list[SectionDefinition], msgspec.Meta(max_length=SECTIONS_MAX)] = []
    id: EventId | None = None
    group: EventId | None = None
    ends_at: Moment | None = None
    stops: Annotated[list[PlaceName], msgspec.Meta(min_length=2, max_length=STOPS_MAX)] | None = None
    slots: SlotsDefinition | None = None
    policy: Policy = Policy()
    metadata: Metadata = {}

    def __post_init__(self) -> None:
        """Bring times to UTC: decoded, patched, imported, and as earlier versions stored them."""
        for name, moment in (("starts_at", self.starts_at), ("ends_at", self.ends_at)):
            if moment is None or moment.tzinfo in (None, dt.UTC):
                continue
            # At the ends of the calendar there is no such moment in UTC; the years are checked later.
            with contextlib.suppress(OverflowError):
                msgspec.structs.force_setattr(self, name, moment.astimezone(dt.UTC))


class EventPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The members of a definition that a `PATCH` may change; what is absent stays as it is.

    So do members of `policy` that are absent there. All else is replaced whole, `metadata` among it.
    """

    name: Name | msgspec.UnsetType = msgspec.UNSET
    starts_at: Moment | msgspec.UnsetType = msgspec.UNSET
    ends_at: Moment | None | msgspec.UnsetType = msgspec.UNSET
    currency: Annotated[str, msgspec.Meta(pattern=CURRENCY_PATTERN)] | msgspec.UnsetType = msgspec.UNSET
    sections: Annotated[list[SectionDefinition], msgspec.Meta(max_length=SECTIONS_MAX)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    stops: Annotated[list[PlaceName], msgspec.Meta(min_length=2, max_length=STOPS_MAX)] | None | msgspec.UnsetType = (
        msgspec.UNSET
    )
    slots: SlotsDefinition | None | msgspec.UnsetType = msgspec.UNSET
    policy: PolicyPatch | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET
    expected_version: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType = msgspec.UNSET

    def apply(self, definition: EventDefinition) -> EventDefinition:
        """The definition with every member of this patch put in place of the old one."""
        changes = _said(self)
        changes.pop("expected_version", None)
        if self.policy is not msgspec.UNSET:
            changes["policy"] = msgspec.structs.replace(definition.policy, **_said(self.policy))
        return msgspec.structs.replace(definition, **changes)


def _said(patch: msgspec.Struct) -> dict[str, Any]:
    """What a patch names, by field."""
    return {name: value for name in patch.__struct_fields__ if (value := getattr(patch, name)) is not msgspec.UNSET}
