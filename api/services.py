"""What the HTTP side is made of: filled once by ``holdfast.compose``, handed to every handler with its call."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal

import msgspec

from api.clients import Proxies
from api.idempotency import OnceStore
from api.identity import TokenVerifier
from api.live import LiveMaps
from engine.admission_queue import AdmissionQueue
from engine.rate_limits import RateLimiter
from engine.reservations import Reservations
from engine.terms import Terms
from persistence.aftercare import Aftercare
from persistence.blocks import Blocks
from persistence.booking_desk import BookingDesk
from persistence.bookings import Bookings
from persistence.checkout import Checkout
from persistence.erasure import Eraser
from persistence.events import Events
from persistence.oversight import Oversight
from persistence.place_desk import PlaceDesk
from persistence.waitlist import Waitlist

Severity = Literal["degraded", "unready"]


class Impaired(Exception):
    """Something is not as it should be, and holds go on without it; the message is for everybody to read."""


class ReadinessCheck(msgspec.Struct, frozen=True):
    """One thing that ``/readyz`` looks at: ``run`` raises when it is not well.

    ``severity`` is what its failure makes of the process: ``unready`` cannot serve, ``degraded`` can, for the time
    being. :class:`Impaired` never does more than degrade.
    """

    run: Callable[[], Coroutine[Any, Any, None]]
    severity: Severity


class Scraped(msgspec.Struct, frozen=True):
    """Figures as text, in the format that was asked for."""

    body: bytes
    content_type: bytes


Scrape = Callable[[str], Awaitable[Scraped]]
"""Gives all figures; is told what the caller accepts."""


class Info(msgspec.Struct, frozen=True):
    """What an installation says of itself at ``/v1/info``."""

    name: str
    version: str
    partitions: int


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that handlers call.

    ``checks`` are asked by ``/readyz``, by the name of what they look at; ``scrape`` answers ``/metrics``. Without a
    ``limiter`` everybody may make as many requests as they like. ``proxies`` are believed about their clients.
    """

    reservations: Reservations
    live: LiveMaps
    events: Events
    bookings: Bookings
    waitlist: Waitlist
    admission_queue: AdmissionQueue
    checkout: Checkout
    desk: BookingDesk
    places: PlaceDesk
    aftercare: Aftercare
    blocks: Blocks
    oversight: Oversight
    terms: Terms
    eraser: Eraser
    once: OnceStore
    verifier: TokenVerifier
    info: Info
    checks: Mapping[str, ReadinessCheck]
    scrape: Scrape
    limiter: RateLimiter | None = None
    proxies: Proxies = Proxies()
