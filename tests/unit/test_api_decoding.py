"""Bodies and query strings that are wrong in every way known."""

import datetime as dt
from typing import Any

import msgspec
import pytest

from api.bookings import BookingQuery
from api.decoding import check_free_form, decode_body, decode_moment, decode_query
from api.events import EventQuery
from api.paging import PageQuery
from api.seats import RangeQuery
from engine.claim_requests import ClaimRequest
from engine.definition import MOMENT_SAMPLE, EventDefinition, EventPatch
from engine.errors import InvalidRequest

CLAIM = msgspec.json.Decoder(ClaimRequest)
EVENT = msgspec.json.Decoder(EventDefinition)
PATCH = msgspec.json.Decoder(EventPatch)


class FreeForm(msgspec.Struct, forbid_unknown_fields=True):
    text: str = ""
    anything: Any = None


FREE_FORM = msgspec.json.Decoder(FreeForm)


def path_of_refusal(decoder: msgspec.json.Decoder[Any], body: bytes) -> str:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(decoder, body)
    assert refused.value.reason
    return refused.value.path


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"items": [{"section": "floor", "quantity": 0}]}', "$.items[0].quantity"),
        (b'{"items": [{"section": "floor", "quantity": 1}], "ttl": "x"}', "$.ttl"),
        (b'{"items": [{"section": "floor", "quantity": 1, "price": 0}]}', "$.items[0].price"),
        (b'{"items": [{"quantity": 1}]}', "$.items[0].section"),
        (b'{"items": [{"section": "floor", "quantity": 1}], "customer_id": "eve"}', "$.customer_id"),
        (b'{"items": []}', "$.items"),
        (b"{}", "$.items"),
        (b"[]", "$"),
        (b"null", "$"),
    ],
)
def test_refusal_names_the_json_path_of_what_is_wrong(body: bytes, path: str) -> None:
    assert path_of_refusal(CLAIM, body) == path


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"items": 5}', "Expected `array`, got `integer`"),
        (b'{"items": [{"section": "floor", "quantity": 1}], "ttl": "soon"}', "Expected `integer | null`, got `string`"),
        (
            b'{"items": [{"section": "floor", "quantity": 1}], "ttl": {"a": 1.5}}',
            "Expected `integer | null`, got `object`",
        ),
    ],
)
def test_refusal_calls_types_what_json_calls_them(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(CLAIM, body)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            b'{"policy": {"orphan_seats": "never"}}',
            "Invalid enum value 'never': must be one of allow, avoid",
        ),
        (
            b'{"policy": {"after_event": "x - at `$.policy.waitlist`"}}',
            "Invalid enum value 'x - at `$.policy.waitlist`': must be one of complete, keep, no_show",
        ),
    ],
)
def test_refusal_of_a_word_lists_those_that_are_allowed(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(PATCH, body)
    assert refused.value.reason == reason


def test_refusal_of_a_word_in_a_query_lists_those_that_are_allowed() -> None:
    with pytest.raises(InvalidRequest, match="must be one of cancelled, closed, draft, open") as refused:
        decode_query(b"status=lost", EventQuery)
    assert refused.value.path == "status"


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        (b'[{"id": "a", "price": 45.5}]', "$.sections[0].price"),
        (b'[{"id": "a", "price": "45.50"}]', "$.sections[0].price"),
        (b'[{"id": "a", "price": -1}]', "$.sections[0].price"),
        (b'[{"id": "a"}, {"id": "b", "leg_prices": [100, 4.5]}]', "$.sections[1].leg_prices[1]"),
        (b'[{"id": "a", "prices": {"gold": 45.5}}]', "$.sections[0].prices[...]"),
    ],
)
def test_refusal_of_a_price_says_what_prices_are_in(sections: bytes, path: str) -> None:
    with pytest.raises(InvalidRequest, match="integers in minor units") as refused:
        decode_body(PATCH, b'{"sections": %s}' % sections)
    assert refused.value.path == path


def test_refusal_of_another_number_says_nothing_of_prices() -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(PATCH, b'{"sections": [{"id": "a", "capacity": 1.5}]}')
    assert "minor units" not in refused.value.reason


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        (b'"2028-01-01"', "Expected a moment with a zone, such as 2027-05-01T19:00:00Z"),
        (b'"tomorrow"', "Expected a moment with a zone, such as 2027-05-01T19:00:00Z"),
        (b'"2028-01-01T19:00:00"', "Expected a moment with a zone, such as 2027-05-01T19:00:00Z"),
        (b"5", "Expected `string | null`, got `integer`: a moment with a zone, such as 2027-05-01T19:00:00Z"),
    ],
)
def test_refusal_of_a_moment_shows_one_with_a_zone(moment: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(PATCH, b'{"ends_at": %s}' % moment)
    assert (refused.value.path, refused.value.reason) == ("$.ends_at", reason)


def test_moment_that_is_shown_is_one() -> None:
    assert decode_body(PATCH, b'{"starts_at": "%s"}' % MOMENT_SAMPLE.encode()).starts_at


def test_member_that_is_known_and_fixed_is_refused_as_such() -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(PATCH, b'{"group": "spring"}', fixed={"id", "group"})
    assert (refused.value.path, refused.value.reason) == ("$.group", "cannot be changed")
    with pytest.raises(InvalidRequest, match="unknown field"):
        decode_body(PATCH, b'{"policy": {"group": 1}}', fixed={"id", "group"})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (rb'{"text": "\ud800"}', "$.text"),
        (rb'{"text": "\ud83dabcdefghijk", "anything": 1}', "$.text"),
        (rb'{"anything": [{"b": "\udc00"}]}', "$.anything[0].b"),
        (rb'{"anything": {"a\ud800": 1}}', r"$.anything.a\ud800"),
    ],
)
def test_half_a_surrogate_pair_is_refused_as_what_it_is_where_it_is(body: bytes, path: str) -> None:
    with pytest.raises(InvalidRequest, match="half of a surrogate pair") as refused:
        decode_body(FREE_FORM, body)
    assert refused.value.path == path
    assert msgspec.json.encode((refused.value.path, refused.value.reason))  # can be told


@pytest.mark.parametrize("body", [b'{"text": "ab', rb'{"text": "\ud83d\ude00'])
def test_body_that_is_cut_off_is_told_that_it_ends_too_early(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="ends too early") as refused:
        decode_body(FREE_FORM, body)
    assert refused.value.path == "$"


def test_text_with_both_halves_of_a_pair_is_taken() -> None:
    assert decode_body(FREE_FORM, rb'{"text": "\ud83d\ude00"}').text == "\U0001f600"


@pytest.mark.parametrize("name", ["float", "str", "null"])
def test_refusal_leaves_names_of_the_client_s_alone(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_body(FREE_FORM, f'{{"{name}": 1}}'.encode())
    assert (refused.value.path, f"`{name}`" in refused.value.reason) == (f"$.{name}", True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        '{"text": "x"}'.encode("utf-16"),
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\\ud800"}',
        b'{"text": "a\x00b"}',
        b'{"anything": NaN}',
        b'{"anything": Infinity}',
        b'{"anything": 1e999}',
        b'{"anything": ' + b"9" * 5000 + b"}",
        b'{"anything": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"anything": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b"\x00",
    ],
    ids=range(16),
)
def test_body_that_is_no_json_we_can_keep_is_refused_as_a_whole(body: bytes) -> None:
    assert path_of_refusal(FREE_FORM, body).startswith("$")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (rb'{"text": "a\u0000b"}', "$.text"),
        (rb'{"anything": [{"b": "\u0000"}]}', "$.anything[0].b"),
        (rb'{"anything": {"a\u0000": 1}}', "$.anything.a\0"),
    ],
)
def test_text_with_nul_is_refused_because_postgres_has_none(body: bytes, path: str) -> None:
    assert path_of_refusal(FREE_FORM, body) == path


def test_text_that_only_spells_the_escape_of_nul_is_taken() -> None:
    assert decode_body(FREE_FORM, rb'{"text": "\\u0000"}').text == r"\u0000"


@pytest.mark.parametrize("value", [2**53, -(2**53), [[2**64]], {"a": {"b": 10**300}}])
def test_free_form_refuses_integers_that_lose_digits(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="2\\*\\*53"):
        check_free_form(value, "$.metadata")


def test_free_form_refuses_more_levels_than_anybody_reads() -> None:
    value: Any = 1
    for _ in range(17):
        value = [value]
    check_free_form(value[0], "$.metadata")
    with pytest.raises(InvalidRequest, match="16 levels"):
        check_free_form(value, "$.metadata")


def test_free_form_takes_what_json_can_say() -> None:
    check_free_form({"a": [1, -1.5, True, None, "ü", {"b": 2**53 - 1}]}, "$.metadata")


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (b"limit=0", "limit"),
        (b"limit=201", "limit"),
        (b"limit=", "limit"),
        (b"limit=ten", "limit"),
        (b"limit=1.5", "limit"),
        (b"limit=1&limit=2", "limit"),
        (b"cursor=", "cursor"),
        (b"cursor=a%00b", "cursor"),
        (b"page=2", "page"),
        (b"&".join(b"a%d=1" % n for n in range(40)), "query"),
    ],
)
def test_query_refusal_names_the_parameter(query: bytes, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_query(query, PageQuery)
    assert refused.value.path == path


def test_query_parameter_that_is_unknown_is_called_a_parameter_and_told_of_those_there_are() -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_query(b"page=2", PageQuery)
    assert (refused.value.path, refused.value.reason) == ("page", "unknown parameter: there are cursor, limit")


def test_query_refusal_names_parameters_by_their_names_outside() -> None:
    with pytest.raises(InvalidRequest, match="there are from, to"):
        decode_query(b"form=SJC", RangeQuery)


def test_query_takes_numbers_and_defaults() -> None:
    assert decode_query(b"limit=200&cursor=abc", PageQuery) == PageQuery(limit=200, cursor="abc")
    assert decode_query(b"", PageQuery) == PageQuery(limit=50, cursor=None)


def test_moment_of_a_query_is_a_date_at_midnight_utc_or_a_moment_with_a_zone() -> None:
    assert decode_moment("2027-05-01", "from_date") == dt.datetime(2027, 5, 1, tzinfo=dt.UTC)
    assert decode_moment("2027-05-01T19:00:00+02:00", "from_date") == dt.datetime(2027, 5, 1, 17, tzinfo=dt.UTC)
    assert decode_moment(None, "from_date") is None


def test_date_ends_a_range_as_its_last_day_and_a_moment_as_itself() -> None:
    assert decode_moment("2027-12-31", "to_date", is_end=True) == dt.datetime(2028, 1, 1, tzinfo=dt.UTC)
    at_midnight = decode_moment("2027-12-31T00:00:00Z", "to_date", is_end=True)
    assert at_midnight == dt.datetime(2027, 12, 31, tzinfo=dt.UTC)
    assert decode_moment("9998-12-31", "to_date", is_end=True) == dt.datetime(9999, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("text", ["2027-05-32", "2027-05-01T19:00:00", "yesterday!", "0001-01-01", "9999-12-31"])
def test_moment_of_a_query_is_refused_when_it_is_none_or_out_of_range(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"such as 2027-05-01T19:00:00Z|the year must be") as refused:
        decode_moment(text, "to_date")
    assert refused.value.path == "to_date"


def test_query_parameter_that_is_too_short_for_a_moment_is_told_what_one_is() -> None:
    with pytest.raises(InvalidRequest, match="such as 2027-05-01, or a moment") as refused:
        decode_query(b"from_date=today", BookingQuery)
    assert refused.value.path == "from_date"


def test_event_definition_refusal_reaches_into_metadata_keys() -> None:
    body = b'{"name": "n", "starts_at": "2027-05-01T19:00:00Z", "currency": "EUR", "metadata": {"%s": 1}}' % (b"k" * 65)
    assert path_of_refusal(EVENT, body).startswith("$.metadata")
