"""From a path to a route."""

import pytest

from api.answers import Answer
from api.call import Call
from api.dispatch import RouteTable
from api.errors import MethodNotAllowed, RouteNotFound
from api.route import Method, Reply, Route
from api.routes import ROUTES


async def answer_nothing(call: Call) -> Answer:
    return Answer(204)


def route(method: Method, path: str) -> Route:
    return Route(
        method=method, path=path, handler=answer_nothing, summary="s", tag="t", replies=(Reply(204, "Nothing."),)
    )


TABLE = RouteTable(
    [
        route("GET", "/v1/bookings/{booking_id}"),
        route("GET", "/v1/bookings/upcoming"),
        route("DELETE", "/v1/bookings/{booking_id}"),
        route("POST", "/v1/holds:batch"),
        route("POST", "/v1/events/{event_id}/holds"),
    ]
)


def test_dispatch_names_what_stands_in_the_braces() -> None:
    found, params = TABLE.find("POST", "/v1/events/concert-42/holds")
    assert found.path == "/v1/events/{event_id}/holds"
    assert params == {"event_id": "concert-42"}


def test_dispatch_prefers_a_literal_segment_wherever_it_stands_in_the_table() -> None:
    assert TABLE.find("GET", "/v1/bookings/upcoming")[0].path == "/v1/bookings/upcoming"
    assert TABLE.find("GET", "/v1/bookings/upcomin")[1] == {"booking_id": "upcomin"}


def test_dispatch_answers_head_where_get_is() -> None:
    assert TABLE.find("HEAD", "/v1/bookings/upcoming")[0].method == "GET"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/bookings",
        "/v1/bookings/",
        "/v1/bookings/upcoming/",
        "//v1/bookings/upcoming",
        "/v1/bookings//",
        "/v1/events//holds",
        "/v1/events/a\0b/holds",
        "/v1/events/a/holds/",
        "/V1/bookings/upcoming",
        "/v1/holds",
    ],
)
def test_dispatch_finds_nothing_when_the_path_is_not_exactly_one_of_the_table(path: str) -> None:
    with pytest.raises(RouteNotFound):
        TABLE.find("GET", path)


def test_dispatch_names_the_methods_when_only_the_method_is_wrong() -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        TABLE.find("PATCH", "/v1/bookings/x")
    assert set(refused.value.allow) == {"GET", "HEAD", "DELETE"}


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: f"{row.method} {row.path}")
def test_dispatch_finds_every_route_of_the_real_table(row: Route) -> None:
    path = row.path.replace("{", "x").replace("}", "")
    found, params = RouteTable(ROUTES).find(row.method, path)
    assert found is row
    assert tuple(params) == row.param_names


def test_table_refuses_the_same_route_twice() -> None:
    with pytest.raises(AssertionError):
        RouteTable([route("GET", "/a/{b}"), route("GET", "/a/{c}")])
