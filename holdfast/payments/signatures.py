"""Signatures of webhooks: ``t=<unix time>,v1=<HMAC-SHA-256 of "<t>.<body>" in hex>``, as Stripe has made them usual."""

import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Sequence

from engine.payments import WEBHOOK_TOLERANCE, NoticeRefused

_FIELD = re.compile(r"(t|v\d)=([0-9a-f]{1,128})")
FIELDS_MAX = 16  # of one header: a time, and a signature by each secret in use


def sign(body: bytes, secret: str, *, at: dt.datetime) -> str:
    """The header for *body*."""
    time = f"{at.timestamp():.0f}"
    return f"t={time},v1={_digest(body, secret, time)}"


def require_signature(header: bytes | None, body: bytes, secrets: Sequence[str], *, now: dt.datetime) -> None:
    """Make sure that *header* signs *body* with one of *secrets*, within five minutes of *now*.

    Raises:
        NoticeRefused: It does not.
    """
    if not secrets:
        raise NoticeRefused("no secret is configured")
    if header is None:
        raise NoticeRefused("no signature")
    fields = [match.groups() for part in _parts(header) if (match := _FIELD.fullmatch(part)) is not None]
    times = [value for name, value in fields if name == "t" and value.isdigit() and len(value) <= 12]
    if len(times) != 1:
        raise NoticeRefused("no time")
    if abs(now.timestamp() - int(times[0])) > WEBHOOK_TOLERANCE.total_seconds():
        raise NoticeRefused("too old, or from the future")
    given = [value for name, value in fields if name == "v1"]
    # All are compared, and each in constant time: how long it takes tells nothing of how near a guess was.
    matches = [hmac.compare_digest(_digest(body, secret, times[0]), value) for secret in secrets for value in given]
    if not any(matches):
        raise NoticeRefused("wrong signature")


def _parts(header: bytes) -> list[str]:
    return header.decode("latin-1").replace(" ", "").split(",", FIELDS_MAX)[:FIELDS_MAX]


def _digest(body: bytes, secret: str, time: str) -> str:
    return hmac.new(secret.encode(), time.encode() + b"." + body, hashlib.sha256).hexdigest()
