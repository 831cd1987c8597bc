"""Tokens, and an application for tests that never get as far as Redis or Postgres."""

import time
from collections.abc import Sequence
from typing import Any, cast

import httpx2
import jwt

from api.app import Application
from api.identity import SharedSecret, TokenVerifier
from api.route import Route
from api.services import Info, Services
from holdfast.metrics import process_figures

SECRET = "a secret that is long enough for HS256"
ISSUER = "holdfast"
AUDIENCE = "holdfast"


def make_token(sub: str = "ana", *roles: str, secret: str = SECRET, **claims: Any) -> str:
    """A token; a claim given as ``None`` is left out."""
    payload = {"sub": sub, "roles": list(roles), "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 600} | claims
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, secret, "HS256")


def bearer(sub: str = "ana", *roles: str, **claims: Any) -> dict[str, str]:
    """The header of such a token."""
    return {"authorization": f"Bearer {make_token(sub, *roles, **claims)}"}


def make_verifier(**options: Any) -> TokenVerifier:
    """A verifier for those tokens."""
    return TokenVerifier([SharedSecret(SECRET)], issuer=ISSUER, audience=AUDIENCE, **options)


def services_without_stores(**parts: Any) -> Services:
    """Services in which every part that would need Redis or Postgres is missing: touching one is a 500."""
    missing = cast(Any, None)
    defaults: dict[str, Any] = {
        "reservations": missing,
        "live": missing,
        "events": missing,
        "bookings": missing,
        "waitlist": missing,
        "admission_queue": missing,
        "checkout": missing,
        "desk": missing,
        "places": missing,
        "aftercare": missing,
        "blocks": missing,
        "oversight": missing,
        "terms": missing,
        "eraser": missing,
        "once": missing,
        "verifier": make_verifier(),
        "info": Info(name="holdfast", version="0.0.0", partitions=64),
        "checks": {},
        "scrape": process_figures("test").scrape,
    }
    return Services(**(defaults | parts))


def client_for(routes: Sequence[Route], **parts: Any) -> httpx2.AsyncClient:
    """A client of an application of these routes."""
    app = Application(services_without_stores(**parts), routes, lifespan=None, public_url=None)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://holdfast.test")
