"""Listening to an event over a real connection: what is told, to whom, how often, and how it ends."""

import base64
import datetime as dt
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import redis
from api_app import PARTITIONS, claim, event_definition, live_server, token

from api import live, stream_frames
from engine import figures
from engine.ids import parse_claim_id
from engine.kernel import Kernel
from engine.keys import partition_of
from engine.transport.open import open_transport

Message = tuple[str, str | None, Any]


class House:
    """A live server, its organizer and its customers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None, *, sub: str = "olga", role: str = "organizer") -> Any:
        headers = {"authorization": f"Bearer {token(sub, role)}"}
        response = httpx2.request(method, self.url + path, json=body, headers=headers, timeout=20)
        assert response.status_code < 300, response.text
        return response.json() if response.content else None

    def open_event(self, **members: Any) -> str:
        event_id: str = self.call("POST", "/v1/events", event_definition(**members))["id"]
        self.call("POST", f"/v1/events/{event_id}/open")
        return event_id

    def hold(self, event_id: str, *seats: str, **members: Any) -> str:
        body = claim(*seats, **members)
        hold_id: str = self.call("POST", f"/v1/events/{event_id}/holds", body, sub="ben", role="customer")["id"]
        return hold_id

    @contextmanager
    def listening(
        self, event_id: str, query: str = "", *, sub: str = "ana", last_id: str | None = None, **claims: Any
    ) -> Iterator[Iterator[Message]]:
        """The messages of a stream, as they come."""
        headers = {"authorization": f"Bearer {token(sub, 'customer', **claims)}"}
        headers |= {} if last_id is None else {"last-event-id": last_id}
        url = f"{self.url}/v1/events/{event_id}/stream{query}"
        with httpx2.stream("GET", url, headers=headers, timeout=20, trust_env=False) as response:
            if response.status_code != 200:
                response.read()
            assert response.status_code == 200, (response.status_code, response.text)
            assert response.headers["content-type"] == "text/event-stream"
            yield messages(response.iter_lines())


def messages(lines: Iterator[str]) -> Iterator[Message]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif "event" in fields:
            yield fields["event"], fields.get("id"), json.loads(fields["data"])
            fields = {}


@pytest.fixture
def house(servers: Any, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(live, "POLL_S", 0.02)
    with live_server(servers.redis_url, database_url) as url:
        yield House(url)


def test_listener_is_told_all_there_is_and_then_what_changes(house: House) -> None:
    event_id = house.open_event()
    house.hold(event_id, "A-2", floor=1)
    with house.listening(event_id) as told:
        kind, first_id, snapshot = next(told)
        assert (kind, snapshot["event_id"], snapshot["status"]) == ("snapshot", event_id, "open")
        assert [(s["id"], s["free"], s["held"]) for s in snapshot["sections"]] == [("floor", 4, 1), ("stalls", 5, 1)]
        assert base64.b64decode(snapshot["seats"]["held"]) == b"\x40"
        assert base64.b64decode(snapshot["seats"]["sold"]) == b"\x00"
        hold_id = house.hold(event_id, "B-1")
        kind, second_id, change = next(told)
        assert (kind, change["seq"] > snapshot["seq"], second_id != first_id) == ("change", True, True)
        assert change["seats"] == [{"section": "stalls", "seat": "B-1", "status": "held"}]
        assert [(s["id"], s["free"], s["held"]) for s in change["sections"]] == [("stalls", 4, 2)]
        house.call("POST", "/v1/bookings", {"hold_id": hold_id}, sub="ben", role="customer")
        assert next(told)[2]["seats"] == [{"section": "stalls", "seat": "B-1", "status": "sold"}]


async def test_listener_is_told_what_another_process_did(house: House, servers: Any) -> None:
    event_id = house.open_event()
    hold_id = house.hold(event_id, "A-1")
    key = parse_claim_id(hold_id)
    assert key is not None
    transport = await open_transport(servers.redis_url)
    try:
        with house.listening(event_id) as told:
            assert next(told)[0] == "snapshot"
            partition = partition_of(event_id, None, PARTITIONS)
            kernel = Kernel(transport, partitions=PARTITIONS)
            args = [key.key.encode(), b"", b""]
            assert (await kernel.run_in_partition("release_hold", partition, args, event_id=event_id))[0] == b"RELEASED"
            assert next(told)[2]["seats"] == [{"section": "stalls", "seat": "A-1", "status": "free"}]
    finally:
        await transport.aclose()


def test_lapsed_hold_is_told_though_nobody_ends_it(house: House) -> None:
    event_id = house.open_event()
    house.hold(event_id, "A-1", ttl=1)
    with house.listening(event_id) as told:
        assert next(told)[2]["next_release_at"] is not None
        change = next(told)[2]
        assert (change["seats"][0]["status"], change["next_release_at"]) == ("free", None)


def test_range_of_legs_has_seats_that_are_taken_on_any_of_them(house: House) -> None:
    seats = {"id": "stalls", "price": 1, "rows": [{"id": "A", "seats": "1-9"}]}
    event_id = house.open_event(sections=[seats], stops=["A", "B", "C", "D"])
    house.hold(event_id, "A-9", **{"from": "B", "to": "C"})
    with house.listening(event_id, "?from=A&to=B") as early, house.listening(event_id, "?from=B") as late:
        assert base64.b64decode(next(early)[2]["seats"]["held"]) == b"\x00\x00"
        assert base64.b64decode(next(late)[2]["seats"]["held"]) == b"\x00\x80"
        house.hold(event_id, "A-1", **{"from": "A", "to": "B"})
        assert next(early)[2]["seats"] == [{"section": "stalls", "seat": "A-1", "status": "held"}]
        kind, _, change = next(late)
        assert (kind, change["seats"], change["sections"]) == ("change", [], [])


def test_what_is_off_sale_is_called_so_as_in_the_seat_map(house: House) -> None:
    event_id = house.open_event()
    blocks = f"/v1/events/{event_id}/blocks"
    house.call("POST", blocks, claim("A-1"))
    with house.listening(event_id) as told:
        bits = next(told)[2]["seats"]
        assert [base64.b64decode(bits[name]) for name in ("held", "sold", "blocked")] == [b"\x00", b"\x80", b"\x80"]
        house.call("POST", blocks, claim("A-2", floor=1))
        assert next(told)[2]["seats"] == [{"section": "stalls", "seat": "A-2", "status": "blocked"}]
        seats = house.call("GET", f"/v1/events/{event_id}/seats")["seats"]
        assert [seat["seat"] for seat in seats if seat["status"] == "blocked"] == ["A-1", "A-2"]
        house.call("DELETE", blocks, claim("A-1"))
        assert next(told)[2]["seats"] == [{"section": "stalls", "seat": "A-1", "status": "free"}]


def test_listener_who_comes_back_gets_a_snapshot_only_if_something_has_changed(house: House) -> None:
    event_id = house.open_event()
    with house.listening(event_id) as told:
        _, last_id, _ = next(told)
    with house.listening(event_id, last_id=last_id) as told:
        house.hold(event_id, "A-1")
        assert next(told)[0] == "change"
    with house.listening(event_id, last_id=last_id) as told:
        kind, number, snapshot = next(told)
        assert (kind, snapshot["sections"][1]["held"], number == last_id) == ("snapshot", 1, False)


def test_much_that_changes_at_once_is_told_as_a_snapshot(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_frames, "CHANGED_SEATS_MAX", 1)
    event_id = house.open_event()
    with house.listening(event_id) as told:
        next(told)
        house.hold(event_id, "A-1", "A-2")
        kind, _, data = next(told)
        assert (kind, base64.b64decode(data["seats"]["held"])) == ("snapshot", b"\xc0")


def test_state_built_anew_is_told_as_a_snapshot(house: House, servers: Any) -> None:
    event_id = house.open_event()
    house.hold(event_id, "A-1")
    with house.listening(event_id) as told:
        _, first_id, _ = next(told)
        redis.Redis.from_url(servers.redis_url).flushall()
        kind, second_id, data = next(told)
        assert (kind, data["sections"][1]["free"]) == ("snapshot", 6)
        assert first_id is not None
        assert second_id is not None
        assert int(second_id.split(".")[0]) > int(first_id.split(".")[0])


@pytest.mark.parametrize(("verb", "reason"), [("close", "closed"), ("cancel", "cancelled")])
def test_event_that_is_taken_off_sale_ends_its_streams(house: House, verb: str, reason: str) -> None:
    event_id = house.open_event()
    with house.listening(event_id) as told:
        next(told)
        house.call("POST", f"/v1/events/{event_id}/{verb}")
        assert list(told)[-1][::2] == ("end", {"reason": reason})
    with house.listening(event_id) as told:
        assert [kind for kind, _, _ in told] == ["snapshot", "end"]


def test_stream_ends_with_its_event(house: House) -> None:
    now = dt.datetime.now(dt.UTC)
    event_id = house.open_event(starts_at=now.isoformat(), ends_at=(now + dt.timedelta(seconds=2)).isoformat())
    for _ in range(2):  # the second comes when it is over
        with house.listening(event_id) as told:
            first, *_, last = [message[::2] for message in told]
        assert (first[0], last) == ("snapshot", ("end", {"reason": "over"}))


def test_stream_ends_with_its_token(house: House) -> None:
    event_id = house.open_event()
    with house.listening(event_id, exp=time.time() + 2) as told:
        assert [message[::2] for message in told][1:] == [("end", {"reason": "token_expired"})]


def test_caller_who_listens_too_often_is_told_and_may_again_when_one_ends(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LISTENERS_PER_CALLER_MAX", 1)
    event_id = house.open_event()
    with house.listening(event_id) as told:
        next(told)
        with pytest.raises(AssertionError, match=r"429.*too-many-streams"), house.listening(event_id):
            pass
        with house.listening(event_id, sub="cy") as other:
            next(other)
    assert_soon(lambda: "snapshot" in heads(house, event_id))


def test_process_takes_no_more_listeners_and_events_than_it_can_tell(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, other = house.open_event(), house.open_event()
    with house.listening(event_id) as told:
        next(told)
        monkeypatch.setattr(live, "WATCHERS_MAX", 1)
        with pytest.raises(AssertionError, match=r"503.*overloaded"), house.listening(other):
            pass
        monkeypatch.setattr(live, "LISTENERS_MAX", 1)
        with pytest.raises(AssertionError, match=r"503.*overloaded"), house.listening(event_id, sub="cy"):
            pass


def test_draft_of_somebody_else_is_not_there_and_head_opens_nothing(house: House) -> None:
    draft = house.call("POST", "/v1/events", event_definition())["id"]
    with pytest.raises(AssertionError, match=r"404.*event-not-found"), house.listening(draft):
        pass
    headers = {"authorization": f"Bearer {token('ana', 'customer')}"}
    head = httpx2.head(f"{house.url}/v1/events/{house.open_event()}/stream", headers=headers)
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")


def test_silent_stream_has_a_heartbeat(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.1)
    headers = {"authorization": f"Bearer {token('ana', 'customer')}"}
    url = f"{house.url}/v1/events/{house.open_event()}/stream"
    with httpx2.stream("GET", url, headers=headers, timeout=20) as response:
        beats = (line for line in response.iter_lines() if line == ":")
        assert [next(beats), next(beats)] == [":", ":"]


def test_reader_who_does_not_read_is_cut_off_while_others_are_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = house.open_event()
    monkeypatch.setattr(stream_frames, "HEARTBEAT", b":" + b"x" * 500_000 + b"\n\n")
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.0)
    host, port = house.url.removeprefix("http://").split(":")
    before = figures.STREAM_ENDS.values.get(("slow",), 0)
    with socket.create_connection((host, int(port))) as lazy:
        lazy.sendall(
            f"GET /v1/events/{event_id}/stream HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {token('lazy', 'customer')}\r\n\r\n".encode()
        )
        assert_soon(lambda: figures.STREAM_ENDS.values.get(("slow",), 0) > before)
        monkeypatch.setattr(live, "HEARTBEAT_S", 15.0)
        with house.listening(event_id) as told:
            assert next(told)[0] == "snapshot"


def test_stream_to_a_proxy_of_http_1_0_comes_without_chunks(house: House) -> None:
    event_id = house.open_event()
    host, port = house.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as proxy, proxy.makefile("rb") as lines:
        proxy.sendall(
            f"GET /v1/events/{event_id}/stream HTTP/1.0\r\n"
            f"authorization: Bearer {token('ana', 'customer')}\r\n\r\n".encode()
        )
        head = b"".join(iter(lines.readline, b"\r\n")).lower()
        assert (b"transfer-encoding" in head, b"connection: close" in head) == (False, True)
        assert lines.readline().startswith(b"retry: ")  # the stream's first line


def test_server_that_stops_ends_its_streams_first(servers: Any, database_url: str) -> None:
    with live_server(servers.redis_url, database_url) as url:
        house = House(url)
        listening = house.listening(house.open_event())
        told = listening.__enter__()
        assert next(told)[0] == "snapshot"
        began = time.monotonic()
    assert [message[::2] for message in told] == [("end", {"reason": "stopping"})]
    assert time.monotonic() - began < 15  # the context waits 20 s for a server that does not stop
    listening.__exit__(None, None, None)


def heads(house: House, event_id: str) -> list[str]:
    try:
        with house.listening(event_id) as told:
            return [next(told)[0]]
    except AssertionError:
        return []


def assert_soon(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
