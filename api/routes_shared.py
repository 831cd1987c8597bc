"""What several tables of routes share: who may call them, what they refuse, and headers."""

from api.identity import ADMIN, CUSTOMER, ORGANIZER, SERVICE
from engine.errors import (
    BookingRefused,
    EventNotFound,
    EventNotOpen,
    HoldConfirmed,
    HoldExpired,
    HoldNotFound,
    HoldReleased,
    InvalidRequest,
    LimitExceeded,
    PlacesUnavailable,
)

BUYERS = frozenset({CUSTOMER, SERVICE, ADMIN})
ORGANIZERS = frozenset({ORGANIZER, ADMIN})
ADMINS = frozenset({ADMIN})

ENDED = (HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed, BookingRefused)
CLAIMS = (InvalidRequest, EventNotFound, EventNotOpen, PlacesUnavailable, LimitExceeded)
REPLAYABLE = ("Idempotent-Replayed",)
