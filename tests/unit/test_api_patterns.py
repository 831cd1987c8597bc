"""Texts of the wrong form are refused in words, never with a regular expression."""

from typing import Any

import msgspec
import pytest

from api.bookings import BookingRequest
from api.decoding import decode_body, decode_query
from api.patterns import WORDS
from api.routes import ROUTES
from engine.definition import EventDefinition
from engine.errors import InvalidRequest

BOOKING = msgspec.json.Decoder(BookingRequest)
EVENT = msgspec.json.Decoder(EventDefinition)


def patterns(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["pattern"]} if isinstance(value.get("pattern"), str) else set()
        return own.union(*map(patterns, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(patterns, value))
    return set()


def test_every_pattern_of_a_route_is_told_in_words() -> None:
    types = {type_ for route in ROUTES for type_ in (route.body, route.query) if type_ is not None}

    assert patterns(msgspec.json.schema_components(tuple(types))) == set(WORDS)


@pytest.mark.parametrize(
    ("decoder", "body", "path", "word"),
    [
        (BOOKING, b'{"guest": {"email": "ana"}}', "$.guest.email", "e-mail address"),
        (BOOKING, b'{"source": "-"}', "$.source", "hyphens"),
        (BOOKING, b'{"event_id": "A"}', "$.event_id", "lower-case"),
        (BOOKING, b'{"from": "a\\nb"}', "$.from", "control characters"),
        (EVENT, b'{"name": "n", "starts_at": "2030-01-01T00:00:00Z", "currency": "eur"}', "$.currency", "ISO 4217"),
    ],
)
def test_text_of_the_wrong_form_is_told_what_is_wanted(
    decoder: msgspec.json.Decoder[Any], body: bytes, path: str, word: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(decoder, body)
    assert refused.value.path == path
    assert word in refused.value.reason
    assert "regex" not in refused.value.reason


def test_parameters_of_a_query_are_told_in_words_too() -> None:
    query = next(route.query for route in ROUTES if route.path == "/v1/bookings" and route.method == "GET")
    assert query is not None
    with pytest.raises(InvalidRequest, match="lower-case") as refused:
        decode_query(b"event_id=A", query)
    assert refused.value.path == "event_id"
