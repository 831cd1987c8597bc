"""The audit log: refused access and changes, with who and what, and nothing personal."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from api_app import Person, claim, composed, connected, event_definition, open_event
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from persistence.database import in_transaction
from persistence.schema import history


@pytest.fixture
async def client(redis_url: str, database_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with composed(redis_url, database_url) as services, connected(services) as opened:
        yield opened


@pytest.fixture
def ana(client: httpx2.AsyncClient) -> Person:
    return Person(client, "ana", "customer")


@pytest.fixture
def eve(client: httpx2.AsyncClient) -> Person:
    return Person(client, "eve", "customer")


@pytest.fixture
def olga(client: httpx2.AsyncClient) -> Person:
    return Person(client, "olga", "organizer")


def audited(logs: list[Any]) -> list[dict[str, Any]]:
    return [dict(entry) for entry in logs if entry.get("logger") == "holdfast.audit"]


async def test_refused_access_is_told_with_who_and_what(
    client: httpx2.AsyncClient, ana: Person, eve: Person, olga: Person
) -> None:
    event_id = await open_event(olga)
    booking = (await ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1"))).json()
    hold = (await ana.post(f"/v1/events/{event_id}/holds", claim("A-2"))).json()
    draft = (await olga.post("/v1/events", event_definition())).json()
    with capture_logs() as logs:
        await client.get(f"/v1/bookings/{booking['id']}")
        await eve.get(f"/v1/bookings/{booking['id']}", x_request_id="r-1")
        await eve.get(f"/v1/bookings/by-reference/{booking['reference']}")
        await eve.delete(f"/v1/holds/{hold['id']}")
        await eve.get(f"/v1/events/{draft['id']}")
        await eve.post(f"/v1/events/{event_id}/close")
        await Person(client, "oscar", "organizer").post(f"/v1/events/{event_id}/close")
    told = [(entry["reason"], entry["actor"], entry["route"]) for entry in audited(logs)]
    assert told == [
        ("unauthenticated", None, "GET /v1/bookings/{booking_id}"),
        ("not_theirs", "eve", "GET /v1/bookings/{booking_id}"),
        ("not_theirs", "eve", "GET /v1/bookings/by-reference/{reference}"),
        ("not_theirs_or_gone", "eve", "DELETE /v1/holds/{hold_id}"),
        ("not_theirs", "eve", "GET /v1/events/{event_id}"),
        ("forbidden", "eve", "POST /v1/events/{event_id}/close"),
        ("forbidden", "oscar", "POST /v1/events/{event_id}/close"),
    ]
    second = audited(logs)[1]
    assert (second["event"], second["log_level"], second["roles"]) == ("access_refused", "warning", ["customer"])
    assert (second["request_id"], second["booking_id"]) == ("r-1", booking["id"])


async def test_changes_are_told_and_looks_and_holds_are_not(ana: Person, olga: Person) -> None:
    with capture_logs() as logs:
        event_id = await open_event(olga)
        await ana.post(f"/v1/events/{event_id}/holds", claim("A-2"))
        request = {"event_id": event_id, "guest": {"name": "Ana Ruiz"}} | claim("A-1")
        for _ in range(2):
            booking = (await ana.post("/v1/bookings", request, idempotency_key="k", x_request_id="r-2")).json()
        await ana.get(f"/v1/bookings/{booking['id']}")
        await ana.post("/v1/bookings", {"event_id": event_id} | claim("A-1"))  # taken: refused, and not for access
        await ana.delete("/v1/customers/ana/personal-data")
    told = [(e["event"], e["actor"], e["route"], e["status"], e["replayed"], e.get("made")) for e in audited(logs)]
    made = f"/v1/bookings/{booking['id']}"
    assert told == [
        ("changed", "olga", "POST /v1/events", 201, False, f"/v1/events/{event_id}"),
        ("changed", "olga", "POST /v1/events/{event_id}/open", 200, False, None),
        ("changed", "ana", "POST /v1/bookings", 201, False, made),
        ("changed", "ana", "POST /v1/bookings", 201, True, made),
        ("changed", "ana", "DELETE /v1/customers/{customer_id}/personal-data", 200, False, None),
    ]
    assert audited(logs)[2]["request_id"] == "r-2"
    assert "Ruiz" not in repr(logs)


async def test_refused_entry_of_a_batch_is_told_too(client: httpx2.AsyncClient, olga: Person) -> None:
    event_id = await open_event(olga)
    confined = Person(client, "kiosk", "service", scope="another-event")
    with capture_logs() as logs:
        response = await confined.post("/v1/holds:batch", [{"event_id": event_id} | claim("A-1")])
    assert response.json()[0]["status"] == 403
    assert [(entry["reason"], entry["actor"]) for entry in audited(logs)] == [("forbidden", "kiosk")]


def test_lines_are_json_and_name_their_logger() -> None:
    program = (
        "from holdfast.logs import configure_logs; configure_logs('info')\n"
        "import types; from api.audit_log import log_refused; from api.errors import Forbidden\n"
        "from api.identity import Caller\n"
        "call = types.SimpleNamespace(caller=Caller('eve', frozenset({'customer'})), scope={'method': 'GET'},\n"
        "    route_path='/v1/x/{id}', request_id=b'r', params={'id': '7'})\n"
        "log_refused(call, Forbidden())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    line = json.loads(done.stderr)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "logger": "holdfast.audit",
        "event": "access_refused",
        "level": "warning",
        "reason": "forbidden",
        "actor": "eve",
        "roles": ["customer"],
        "route": "GET /v1/x/{id}",
        "request_id": "r",
        "id": "7",
    }


async def test_history_begins_with_who_asked_for_the_booking(client: httpx2.AsyncClient, olga: Person) -> None:
    event_id = await open_event(olga)
    kiosk = Person(client, "kiosk", "service")
    booking = await kiosk.post("/v1/bookings", {"event_id": event_id} | claim("A-1"), x_request_id="r-3")
    assert booking.status_code == 201
    services = client._transport.app._services  # type: ignore[attr-defined]

    async def read(connection: AsyncConnection) -> Any:
        return (await connection.execute(sa.select(history))).mappings().one()

    row = await in_transaction(services.bookings.engine, read)
    assert (row["actor"], row["role"], row["request_id"]) == ("kiosk", "service", "r-3")
