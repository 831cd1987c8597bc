"""What the command and its client process tell each other: a phase to run, how far it is, what came of it."""

from typing import Literal

import msgspec

from holdfast.demo.box_office import Booked

Kind = Literal["holds", "bookings"]
HOLD = "hold"
BOOKING = "booking"  # a hold and its confirmation together


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One load: *connections* are kept busy for *seconds*, or until *most* holds have been asked for.

    Holds take one place each of a counted section; what is booked is a numbered seat each, row by row.
    """

    kind: Kind
    url: str
    event_id: str
    section: str
    seats_per_row: int
    seconds: int
    most: int
    connections: int
    tokens: list[str]


class Sofar(msgspec.Struct, frozen=True):
    """Holds or bookings that have been answered by now."""

    done: int


class Outcome(msgspec.Struct, kw_only=True):
    """What was answered. ``unknown`` are holds whose confirmation was not: a booking may or may not exist.

    ``overloaded`` counts refusals because of too much at once, each of which was followed by another try.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    holds: int = 0
    overloaded: int = 0
    latencies_s: dict[str, list[float]] = {}
    confirmed: list[Booked] = []
    confirming: list[Booked] = []
    unknown: set[str] = set()
    unexpected: dict[str, int] = {}


encode_phase = msgspec.json.encode
decode_phase = msgspec.json.Decoder(Phase).decode
encode_outcome = msgspec.json.encode
decode_outcome = msgspec.json.Decoder(Outcome).decode
