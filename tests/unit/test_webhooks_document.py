"""The receiver that docs/webhooks.md shows works on what is sent, and the events it shows are those there are."""

import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from engine.waitlist import EntryStatus
from persistence.publishing.signing import new_secret, signature_header
from persistence.steps import _TYPES

DOCUMENT = (Path(__file__).parents[2] / "docs/webhooks.md").read_text("utf-8")
BODY = b'{"id":"id-1","type":"booking.confirmed"}'


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What the example defines."""
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/webhooks.md", "exec"), names)
    return names


def headers(*secrets: str, at_s: float | None = None) -> dict[str, str]:
    now_s = int(time.time() if at_s is None else at_s)
    return {
        "webhook-id": "id-1",
        "webhook-timestamp": str(now_s),
        "webhook-signature": signature_header(secrets, "id-1", now_s, BODY),
    }


def test_receiver_takes_what_is_signed_with_its_secret_during_a_rotation_too(shown: dict[str, Any]) -> None:
    mine, other = new_secret(), new_secret()

    assert shown["verify"](headers(mine), BODY, mine)["type"] == "booking.confirmed"
    assert shown["verify"](headers(other, mine), BODY, mine)["id"] == "id-1"


def test_receiver_refuses_what_is_changed_old_or_signed_by_another(shown: dict[str, Any]) -> None:
    secret = new_secret()

    with pytest.raises(ValueError, match="not signed"):
        shown["verify"](headers(secret), BODY + b" ", secret)
    with pytest.raises(ValueError, match="not signed"):
        shown["verify"](headers(secret), BODY, new_secret())
    with pytest.raises(ValueError, match="too old"):
        shown["verify"](headers(secret, at_s=time.time() - 301), BODY, secret)


def test_receiver_applies_an_event_once(shown: dict[str, Any]) -> None:
    secret, seen, applied = new_secret(), set[str](), list[Any]()

    for _ in range(2):
        assert shown["receive"](headers(secret), BODY, secret, seen, applied.append) == 200

    assert len(applied) == 1


def test_every_type_that_a_booking_can_be_told_as_is_in_the_table() -> None:
    told = {*_TYPES.values(), "booking.created", "booking.status_changed", "booking.updated", "hold.expired"}
    told |= {"waitlist.joined", "waitlist.passed_over"}
    told |= {f"waitlist.{status}" for status in get_args(EntryStatus) if status != "waiting"}

    assert {name for line in re.findall(r"^\| (`.*?) \|", DOCUMENT, re.MULTILINE) for name in _names(line)} == told


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
