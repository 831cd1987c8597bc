"""What the HTTP side is made of: filled once by ``holdfast.compose``, handed to every handler with its call."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from api.idempotency import OnceStore
from api.identity import TokenVerifier
from engine.reservations import Reservations
from persistence.bookings import Bookings
from persistence.events import Events

ReadinessCheck = Callable[[], Awaitable[None]]


class Info(msgspec.Struct, frozen=True):
    """What an installation says of itself at ``/v1/info``."""

    name: str
    version: str
    partitions: int


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that handlers call.

    ``checks`` are asked by ``/readyz``, by the name of what they look at; a check raises when the answer is no.
    """

    reservations: Reservations
    events: Events
    bookings: Bookings
    once: OnceStore
    verifier: TokenVerifier
    info: Info
    checks: Mapping[str, ReadinessCheck]
