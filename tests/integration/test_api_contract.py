"""The running API keeps to its own OpenAPI document, whatever is sent to it."""

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from api_app import claim, live_server, token
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.openapi import openapi_document
from api.routes import ROUTES

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES_PER_OPERATION = 10
BOUNDARIES = "CONTRACT_BOUNDARIES"  # set by `make test-slow`: each bound of each member as well, 5,000 requests
schema = schemathesis.openapi.from_dict(openapi_document(ROUTES, version="test"))
schema.config.phases.coverage.enabled = BOUNDARIES in os.environ


class Installation:
    """A running server, an event on sale (the document's examples are about it), and ids worth asking for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers = {"authorization": f"Bearer {token('root', 'admin')}"}
        with httpx2.Client(base_url=url, headers=self.headers) as client:
            example = next(route.body_example for route in ROUTES if route.path == "/v1/events" and route.body)
            policy = {"max_places_per_customer": 1_000_000, "hold_ttl": 3600, "hold_ttl_max": 3600}
            client.post("/v1/events", json=example | {"policy": policy}).raise_for_status()
            client.post("/v1/events", json=example | {"id": "draft-1"}).raise_for_status()
            client.post("/v1/events/concert-42/open").raise_for_status()
            held = client.post("/v1/events/concert-42/holds", json=claim("A-19")).raise_for_status().json()
            booked = client.post("/v1/bookings", json={"event_id": "concert-42"} | claim("A-20"))
            booking = booked.raise_for_status().json()
        self.known = {
            "event_id": ["concert-42", "draft-1"],
            "hold_id": [held["id"], booking["id"]],
            "booking_id": [booking["id"]],
            "reference": [booking["reference"]],
        }

    def aim(self, parameters: dict[str, Any]) -> None:
        """Have most generated ids name something that is there: made-up ones seldom get past a 404."""
        for name, value in parameters.items():
            ids = [*self.known.get(name, []), None]
            parameters[name] = ids[len(str(value)) % len(ids)] or value


@pytest.fixture(scope="module")
def installation(servers: Any, database_url: str) -> Iterator[Installation]:
    with live_server(servers.redis_url, database_url) as url:
        yield Installation(url)


@pytest.mark.timeout(600)  # seating plans take 20 s of CPU to think up, and a busy machine ten times as long
@schema.exclude(operation_id="stream_event").parametrize()  # it goes on for ever; test_api_stream.py has it
@settings(
    max_examples=EXAMPLES_PER_OPERATION,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_api_keeps_to_its_document(case: schemathesis.Case[Any], installation: Installation) -> None:
    installation.aim(case.path_parameters or {})
    case.call_and_validate(base_url=installation.url, headers=installation.headers, checks=CHECKS)


def test_document_served_is_the_one_checked_here(installation: Installation) -> None:
    served = httpx2.get(f"{installation.url}/openapi.json").json()
    assert served["paths"].keys() == openapi_document(ROUTES, version="test")["paths"].keys()


def test_body_above_the_cap_is_cut_off_instead_of_being_read(installation: Installation) -> None:
    sent = 0

    def flood() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2_000):
            sent += 1 << 16
            yield b" " * (1 << 16)

    begin = time.monotonic()
    with httpx2.Client(base_url=installation.url, headers=installation.headers, timeout=20) as client:
        try:
            response = client.post("/v1/bookings", content=flood(), headers={"content-type": "application/json"})
            assert (response.status_code, response.headers["connection"]) == (413, "close")
        except (httpx2.WriteError, httpx2.ReadError, httpx2.RemoteProtocolError):
            pass  # the connection was closed before the client stopped writing: all the better
    assert sent < 2_000 << 16
    assert time.monotonic() - begin < 10
