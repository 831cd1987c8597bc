"""The OpenAPI document: complete, resolvable, and true to the route table."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from api.openapi import openapi_document, problem_kinds
from api.problems import KIND_BY_CODE
from api.route import Route
from api.routes import ROUTES
from engine.ids import number_from_reference, reference_from_number
from persistence.statistics import APPROVED

DOCUMENT = msgspec.json.decode(msgspec.json.encode(openapi_document(ROUTES, version="1.2.3")))


def operation_of(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = DOCUMENT["paths"][route.path][route.method.lower()]
    return operation


def members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield name, member
            yield from members(member)
    elif isinstance(value, list):
        for member in value:
            yield from members(member)


def test_document_is_of_version_3_1_and_names_the_installations_version() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_document_has_every_route_and_no_other() -> None:
    listed = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert listed == {(route.method, route.path) for route in ROUTES}


def test_operation_ids_are_unique() -> None:
    ids = [operation_of(route)["operationId"] for route in ROUTES]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere() -> None:
    references = {member for name, member in members(DOCUMENT) if name == "$ref"}
    assert references
    for reference in references:
        root, *path = reference.split("/")
        assert root == "#"
        target = DOCUMENT
        for segment in path:
            target = target[segment]


def test_patterns_are_ones_that_other_languages_read() -> None:
    patterns = [member for name, member in members(DOCUMENT) if name == "pattern" and isinstance(member, str)]
    assert patterns
    for pattern in patterns:
        assert not pattern.endswith(("\\Z", "\\z")), pattern
        jsonschema_rs.validator_for({"type": "string", "pattern": pattern})


def test_descriptions_are_markdown_and_not_docstrings() -> None:
    described = [text for name, text in members(DOCUMENT) if name in ("description", "summary") and type(text) is str]
    assert len(described) > 100
    for text in described:
        assert "``" not in text, text
        assert "`None`" not in text, text
        assert not re.search(r"\*\w+\*|:\w+:`|^    ", text, re.MULTILINE), text


def test_amount_of_a_booking_is_told_apart_from_what_its_places_cost() -> None:
    for name in ("Booking", "StartedBooking"):
        described = DOCUMENT["components"]["schemas"][name]["properties"]["amount"]["description"]
        assert "`price.total`" in described
        assert "`refunded`" in described


def test_cancelling_says_how_a_part_is_given_back() -> None:
    described = DOCUMENT["paths"]["/v1/bookings/{booking_id}/cancel"]["post"]["description"]
    assert "PATCH /v1/bookings/{booking_id}" in described
    assert "`items`" in described


def test_spellings_of_a_reference_that_are_said_to_be_taken_are() -> None:
    (parameter,) = DOCUMENT["paths"]["/v1/bookings/by-reference/{reference}"]["get"]["parameters"][:1]
    assert "hyphens may be missing, the `HF` may not" in parameter["description"]

    reference = reference_from_number(4711)
    bare = reference.replace("-", "")

    assert [number_from_reference(text) for text in (reference, reference.lower(), bare)] == [4711] * 3
    assert number_from_reference(reference.removeprefix("HF-")) is None


def test_approved_of_the_statistics_says_what_it_counts() -> None:
    described = DOCUMENT["components"]["schemas"]["StatisticsView"]["properties"]["approved"]["description"]
    assert all(f"`{status}`" in described for status in APPROVED)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_operation_says_who_may_call_it_and_what_it_answers(route: Route) -> None:
    operation = operation_of(route)
    assert operation["security"] == ([{"bearer": []}] if route.roles else [])
    assert {str(reply.status) for reply in route.replies} <= operation["responses"].keys()
    for kind in problem_kinds(route):
        response = operation["responses"][str(kind.status)]
        assert f"`{kind.code}`" in response["description"] or str(kind.status) == "503"
        assert "application/problem+json" in response["content"]
    if route.roles:
        assert {"401", "403", "503"} <= operation["responses"].keys()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_operation_describes_every_parameter_of_its_path(route: Route) -> None:
    described = [p["name"] for p in operation_of(route)["parameters"] if p["in"] == "path"]
    assert tuple(described) == route.param_names


@pytest.mark.parametrize("route", [r for r in ROUTES if r.body is not None], ids=lambda r: f"{r.method} {r.path}")
def test_example_of_a_body_is_what_the_route_decodes(route: Route) -> None:
    content = operation_of(route)["requestBody"]["content"]["application/json"]
    if route.body_example is None:
        assert not route.body_required
        return
    msgspec.json.decode(msgspec.json.encode(content["example"]), type=route.body)
    schema = content["schema"] | {"components": DOCUMENT["components"]}
    jsonschema_rs.validator_for(schema).validate(content["example"])


@pytest.mark.parametrize("name", ["ClaimRequest", "ExtendRequest"])
def test_ttl_of_a_hold_is_said_to_be_cut_where_it_is_too_long(name: str) -> None:
    described = str(openapi_document(ROUTES, version="test")["components"]["schemas"][name]["properties"]["ttl"])
    assert "cut" in described
    assert "hold_ttl_max" in described


def test_every_change_takes_an_idempotency_key() -> None:
    for route in ROUTES:
        names = [parameter["name"] for parameter in operation_of(route)["parameters"]]
        assert ("Idempotency-Key" in names) == (route.method != "GET")


def test_every_problem_of_the_contract_is_documented() -> None:
    assert {
        "places-unavailable",
        "event-not-open",
        "limit-exceeded",
        "event-not-found",
        "invalid-request",
        "hold-expired",
        "hold-released",
        "hold-confirmed",
        "idempotency-key-reused",
        "idempotency-in-flight",
        "version-conflict",
        "invalid-transition",
        "overloaded",
    } <= KIND_BY_CODE.keys()
