"""The table of problems: complete, stable, and true to the shapes that the OpenAPI document describes."""

import datetime as dt

import msgspec
import pytest
from structlog.testing import capture_logs

from api import errors as http
from api.problems import INTERNAL_ERROR, KIND_BY_CODE, KINDS, answer_problem, kind_of_class, problem_body
from engine import errors as engine


def leaves(root: type[Exception]) -> set[type[Exception]]:
    children = root.__subclasses__()
    return set().union(*map(leaves, children)) if children else {root}


EXAMPLES: list[Exception] = [
    engine.InvalidRequest("$.items[0].seats[1]", "section 'stalls' has no seat 'Z-1'"),
    engine.EventNotFound("concert-42"),
    engine.EventExists("concert-42"),
    engine.EventNotDraft("concert-42", "open"),
    engine.EventNotOpen("concert-42", "closed"),
    engine.InvalidTransition("draft", "closed", ("open", "cancelled")),
    engine.VersionConflict(7),
    engine.PlacesUnavailable(
        (engine.UnavailablePlace("stalls", seat="A-1"), engine.UnavailablePlace("floor", requested=3, free=1)),
        held=2,
        sold=1,
        next_release_at=dt.datetime(2027, 5, 1, 19, tzinfo=dt.UTC),
    ),
    engine.LimitExceeded("max_places_per_hold", 10),
    engine.RateLimited("caller", 0, None, retry_after_ms=600),
    engine.AdmissionRequired("concert-42"),
    engine.AdmissionPending("concert-42", admitted_at=dt.datetime(2027, 5, 1, 19, tzinfo=dt.UTC), wait_ms=1_600),
    engine.HoldNotFound("x"),
    engine.HoldExpired("x"),
    engine.HoldReleased("x"),
    engine.HoldConfirmed("x", "x"),
    engine.BookingNotFound("x"),
    engine.BookingRefused("x"),
    engine.NoWaitlist("concert-42"),
    engine.PlacesAvailable("concert-42"),
    engine.AlreadyInLine("x"),
    engine.EntryNotFound("x"),
    engine.BlockNotFound("x"),
    engine.PaymentDeclined("x", "card_declined"),
    engine.IdempotencyKeyReused(),
    engine.IdempotencyInFlight(),
    engine.StoreUnavailable("redis://user:secret@host"),
    engine.LedgerUnavailable("postgresql://user:secret@host"),
    engine.NotWrittenYet("x"),
    engine.JournalFull(),
    engine.PaymentOpen("x", "https://bank.test/pay"),
    engine.InventoryUnavailable("timeout"),
    engine.Overloaded(),
    http.BadRequest("`Host` is missing"),
    http.LengthRequired(),
    http.HeadTooLarge(),
    http.Unauthenticated("The token has expired."),
    http.Forbidden(),
    http.RouteNotFound(),
    http.MethodNotAllowed(("GET", "HEAD")),
    http.PayloadTooLarge(1024),
    http.UnsupportedMediaType(),
    http.ContentEncoded(),
    http.TooManyStreams(10),
    http.NoticeUnsigned(),
    http.KeysUnavailable(),
]


def document_of(error: Exception) -> dict[str, object]:
    _, body = problem_body(error, base_url="https://tickets.example", request_id=b"r1")
    return msgspec.json.decode(body, type=dict[str, object])


@pytest.mark.parametrize("root", [engine.HoldfastError, http.ApiError])
def test_problem_table_has_a_kind_for_every_leaf_of_the_error_tree(root: type[Exception]) -> None:
    missing = {leaf.__name__ for leaf in leaves(root) if leaf not in KINDS}
    assert not missing


def test_examples_of_these_tests_cover_the_whole_table() -> None:
    assert {type(error) for error in EXAMPLES} == set(KINDS)


def test_problem_codes_are_unique() -> None:
    codes = [kind.code for kind in KINDS.values()]
    assert len(codes) == len(set(codes)) == len(KIND_BY_CODE) - 1


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_problem_document_has_exactly_the_members_of_its_shape(error: Exception) -> None:
    document = document_of(error)
    kind = kind_of_class(type(error))
    assert set(document) == set(kind.shape.__struct_encode_fields__)
    msgspec.convert(document, kind.shape)
    assert document["type"] == f"https://tickets.example/problems/{kind.code}"
    assert document["status"] == kind.status
    assert document["request_id"] == "r1"


def test_places_unavailable_tells_what_how_many_and_when() -> None:
    document = document_of(next(error for error in EXAMPLES if isinstance(error, engine.PlacesUnavailable)))
    assert document["unavailable"] == [
        {"section": "stalls", "seat": "A-1"},
        {"section": "floor", "requested": 3, "free": 1},
    ]
    assert document["held"] == 2
    assert document["next_release_at"] == "2027-05-01T19:00:00Z"


def test_problem_of_a_subclass_is_that_of_the_nearest_class_in_the_table() -> None:
    class HouseIsFull(engine.Overloaded):
        pass

    assert kind_of_class(HouseIsFull).code == "overloaded"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("password=hunter2"), KeyError("hunter2"), engine.StoreUnavailable("redis://user:hunter2@host")],
    ids=lambda error: type(error).__name__,
)
def test_problem_leaks_nothing_of_a_failure_that_is_ours(error: Exception) -> None:
    answer = answer_problem(error, base_url="http://h", request_id=b"r1", route="/v1/holds")
    assert answer.status >= 500
    assert b"hunter2" not in answer.body


def test_log_says_why_a_dependency_is_unavailable_and_leaves_out_what_may_be_personal() -> None:
    error = engine.LedgerUnavailable("QueryCanceledError: statement timeout\n[parameters: ana@example.com]")
    with capture_logs() as logs:
        answer_problem(error, base_url="http://h", request_id=b"r1", route="/v1/bookings")
    assert [(log["event"], log["code"], log["reason"]) for log in logs] == [
        ("dependency_unavailable", "ledger-unavailable", "QueryCanceledError: statement timeout")
    ]


def test_problem_of_an_unknown_exception_is_an_internal_error() -> None:
    assert kind_of_class(ZeroDivisionError) is INTERNAL_ERROR


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_answer_that_means_later_says_when(error: Exception) -> None:
    answer = answer_problem(error, base_url="http://h", request_id=b"r1", route="")
    says_when = b"retry-after" in dict(answer.headers)
    later = engine.IdempotencyInFlight | engine.AdmissionPending
    assert says_when == (answer.status in (429, 503) or isinstance(error, later))
