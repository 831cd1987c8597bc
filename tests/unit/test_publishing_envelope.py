"""What a subscriber is sent: the envelope, its signature, and how long is waited between two attempts."""

import datetime as dt
import json
import re
from pathlib import Path
from uuid import UUID

import pytest
from receiver import Received

from engine.ids import number_from_reference
from persistence.publishing.attempt import WAIT_MAX_S, Patience
from persistence.publishing.envelope import OutboxRow, envelope, message_id
from persistence.publishing.event_types import TYPES, UnknownType, require_types
from persistence.publishing.signing import new_secret, secret_key, signature_header

BOOKING = UUID("01990000-0000-7000-8000-000000000001")
AT = dt.datetime(2027, 5, 1, 19, 0, 0, 123_000, tzinfo=dt.UTC)
ROW = OutboxRow(42, BOOKING, 7, "gig", "booking.confirmed", '{"status":"confirmed","version":1}', AT)


def test_envelope_is_a_cloud_event_that_names_the_booking() -> None:
    event = json.loads(envelope(ROW))

    assert event == {
        "specversion": "1.0",
        "id": "01k4000000e008000000000001-42",
        "source": "/v1/events/gig",
        "type": "booking.confirmed",
        "subject": "01k4000000e008000000000001~gig",
        "time": "2027-05-01T19:00:00.123000Z",
        "sequence": "0000000000000000042",
        "dataschema": "urn:x-holdfast:booking:1",
        "datacontenttype": "application/json",
        "data": {
            "booking_id": "01k4000000e008000000000001~gig",
            "event_id": "gig",
            "reference": event["data"]["reference"],
            "status": "confirmed",
            "version": 1,
        },
    }
    assert number_from_reference(event["data"]["reference"]) == 7
    assert event["id"] == message_id(ROW)
    assert "." not in event["id"]


def test_envelope_of_a_hold_has_no_reference() -> None:
    event = json.loads(envelope(OutboxRow(43, BOOKING, None, "gig", "hold.expired", "{}", AT)))

    assert event["dataschema"] == "urn:x-holdfast:hold:1"
    assert event["data"] == {"hold_id": event["subject"], "event_id": "gig"}


def test_signature_can_be_checked_with_either_secret_and_with_no_other() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    header = signature_header([new, old], "id-1", 1_800_000_000, b"{}")
    headers = {"webhook-id": "id-1", "webhook-timestamp": "1800000000", "webhook-signature": header}
    received = Received(headers, b"{}")

    assert [received.is_signed_with(secret) for secret in (old, new, other)] == [True, True, False]
    assert not Received(headers, b"{ }").is_signed_with(new)
    assert not Received(headers | {"webhook-timestamp": "1800000001"}, b"{}").is_signed_with(new)
    assert not Received(headers | {"webhook-id": "id-2"}, b"{}").is_signed_with(new)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_short", "secret", "whsec_" + "A" * 200, "whsec_!!!!"])
def test_text_that_is_no_secret_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and 24 to 64 bytes") as refused:
        secret_key(text)

    assert len(text) < 8 or text not in str(refused.value)


def test_pauses_double_up_to_a_bound_and_are_spread() -> None:
    patience = Patience()
    pauses = [[patience.wait_s(attempts) for _ in range(50)] for attempts in range(1, 20)]

    for attempts, spread in enumerate(pauses, start=1):
        middle = min(5.0 * 2 ** (attempts - 1), WAIT_MAX_S)
        assert all(0.75 * middle <= pause <= 1.25 * middle for pause in spread)
        assert len(set(spread)) > 1


def test_receiver_that_asks_for_a_longer_pause_gets_it_within_the_bound() -> None:
    assert Patience().wait_s(1, retry_after_s=120) == 120
    assert Patience().wait_s(1, retry_after_s=1e9) == WAIT_MAX_S


@pytest.mark.parametrize(
    "types", [[], ["booking"], ["*"], ["booking.Confirmed"], ["booking.*", ""], ["booking.confirmedd"], ["foo.*"]]
)
def test_text_that_is_no_type_is_refused(types: list[str]) -> None:
    with pytest.raises(UnknownType):
        require_types(types)


def test_types_are_those_of_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| type | when |\n")
    rows = re.findall(r"^\| (`[a-z]+\.[a-z_, `.]+`) \|", table.partition("\n\n")[0], re.MULTILINE)
    assert sorted(re.findall(r"`([a-z._]+)`", " ".join(rows))) == list(TYPES)
    require_types([*TYPES, "booking.*", "hold.*", "waitlist.*"])
