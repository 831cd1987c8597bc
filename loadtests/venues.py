"""Events put straight into Valkey by the scripts that load them, claims on them, and the proof that all adds up."""

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis
import uuid_utils
from harness import Void
from pipe import Pipe

import lua
from engine.booking_batches import BookingBatches
from engine.definition import EventDefinition
from engine.events import Event, SellableEvent
from engine.ids import new_claim_id
from engine.keys import KeyRing, event_key, load_key, partition_key, partition_of
from engine.layout import compile_layout
from engine.loading import pack_rows, state_fields
from engine.once import ONCE_TTL_MS
from engine.ports import BookingColumns
from engine.transport.wire import PackedKeys, pack_evalsha

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from invariants import StoredState, find_faults  # the tests' own check, which is no package

PARTITIONS = 64
TTL_MS = 86_400_000  # nothing lapses while it is measured
SEATS_MAX_OF_GOALS = 1_000_000
SEATS_PER_ROW = 20
BATCH_SIZE = 500
OWNER = b"bench"


def definition(event_id: str, *, seats: int = 0, places: int = 0, seats_per_row: int = SEATS_PER_ROW) -> dict[str, Any]:
    """An event as JSON, with a counted section ``floor`` of *places*, numbered seats in ``stalls``, or both."""
    sections: list[dict[str, Any]] = []
    if places:
        sections.append({"id": "floor", "price": 4500, "capacity": places})
    if seats:
        rows = [{"id": f"R{row}", "seats": f"1-{seats_per_row}"} for row in range(seats // seats_per_row)]
        sections.append({"id": "stalls", "price": 9000, "rows": rows})
    policy = {
        "hold_ttl": TTL_MS // 1000,
        "hold_ttl_max": TTL_MS // 1000,
        "max_places_per_hold": 10,
        "max_places_per_customer": 1_000_000,
    }
    return {
        "id": event_id,
        "name": "Benchmark",
        "starts_at": "2150-01-01T20:00:00Z",
        "currency": "EUR",
        "sections": sections,
        "policy": policy,
    }


def sellable(document: dict[str, Any]) -> SellableEvent:
    """The event of *document*, open."""
    compiled = msgspec.convert(document, EventDefinition)
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    event = Event(document["id"], "olga", "open", 1, 1, compiled, moment, moment)
    return SellableEvent(event, compile_layout(compiled))


class Venue:
    """One event in Valkey. Its only section is number 0."""

    def __init__(self, client: redis.Redis, pipe: Pipe, event: SellableEvent) -> None:
        self.event = event
        self._client = client
        self._pipe = pipe
        self._partition = partition_of(event.event.id, event.definition.group, PARTITIONS)
        self._keys = KeyRing()
        self._epoch = 0
        for name in lua.names():
            pipe.ask("SCRIPT", "LOAD", lua.load(name).source)

    def load(self, sold: Sequence[str] = ()) -> None:
        """Begin anew, with nothing taken but the places of *sold*, one booking each."""
        self._epoch += 1
        layout, epoch = self.event.layout, b"%d" % self._epoch
        event_id = self.event.event.id.encode()
        cells = b"%d" % (len(layout.seats) * layout.legs)
        fields = state_fields(self.event.event, layout)
        self._pipe.send([self._wire("begin_load", [event_id, epoch, pack_rows(layout), cells, b"1", *fields])])
        names = [load_key(self._partition, self.event.event.id, n, self._epoch) for n in ("new_bookings", "new_users")]
        batches = BookingBatches(layout, *names)
        for start in range(0, len(sold), BATCH_SIZE):
            some = sold[start : start + BATCH_SIZE]
            ids = [uuid_utils.uuid7().bytes for _ in some]
            self._pipe.send(batches.add(BookingColumns(ids, ["1"] * len(ids), some, ["past"] * len(ids))))
        self._pipe.send([self._load_wire("count_customers", [epoch, *args]) for args in batches.take_again()])
        if sold:
            counts = [b"%d" % batches.count, b"%d" % batches.customer_count]
            self._pipe.send([self._load_wire("adopt_bookings", [epoch, *counts])])
        for piece in batches.pieces():
            self._pipe.send([self._wire("load_places", [epoch, *piece])])
        ready = self._pipe.send([self._wire("finish_load", [event_id, epoch])])[0]
        assert ready[0] == b"READY", ready

    def _load_wire(self, name: str, args: Sequence[bytes]) -> bytes:
        """A script with keys of the load of the current epoch."""
        script = lua.load(name)
        keys = self._keys.for_event(script, self.event.event.id, self._partition, epoch=self._epoch)
        return pack_evalsha(script.sha, keys, args)

    def forget(self) -> None:
        """Remove the event from Valkey."""
        self._client.flushall()

    def drop_trail(self) -> None:
        """Forget the lines that holds have left for their history, as if they had been stored in Postgres."""
        self._client.xtrim(partition_key(self._partition, "trail"), maxlen=0, approximate=False)

    def hold_arguments(
        self, places: str, *, owner: bytes = OWNER, hold_id: str | None = None, ttl_ms: int = TTL_MS
    ) -> list[bytes]:
        """The arguments of ``hold_places`` for a claim without an idempotency key."""
        layout = self.event.layout.digest.encode()
        claim = [(hold_id or new_key()).encode(), layout, places.encode(), b"%d" % ttl_ms]
        return [owner, b"", b"%d" % ONCE_TTL_MS, *claim]

    def hold_wire(
        self, places: str, *, owner: bytes = OWNER, hold_id: str | None = None, ttl_ms: int = TTL_MS
    ) -> bytes:
        """The same as bytes to send."""
        return self._wire("hold_places", self.hold_arguments(places, owner=owner, hold_id=hold_id, ttl_ms=ttl_ms))

    def release_wire(self, hold_id: str, *, owner: bytes = OWNER) -> bytes:
        """``release_hold`` as bytes to send."""
        return self._wire("release_hold", [hold_id.encode(), owner, b"a1"])

    def keys(self, script: str) -> PackedKeys:
        """The keys of a call of *script* on this event."""
        return self._keys.for_event(lua.load(script), self.event.event.id, self._partition)

    def check_held(self, least: int, most: int | None = None) -> None:
        """Cheap enough after every run: as many places are held as claims were granted, by every count there is.

        Raises:
            Void: They are not.
        """
        state = {name: int(value) for name, value in self._counters().items()}
        capacity = self.event.layout.sections[0].capacity
        if not least <= state["held:0:0"] <= (least if most is None else most):
            raise Void(f"{state['held:0:0']} places are held, not {least} to {most or least}")
        if state["free:0:0"] + state["held:0:0"] + state["sold:0:0"] != capacity:
            raise Void(f"free, held and sold do not make {capacity}: {state}")
        records, deadlines = self._client.hlen(self._key("holds")), self._client.zcard(self._key("expiries"))
        if records != deadlines:
            raise Void(f"{records} holds have {deadlines} deadlines")
        if self.event.layout.seats and self._client.bitcount(self._key("held")) != state["held:0:0"]:
            raise Void("the bitmap of held seats does not agree with their counter")

    def check(self) -> None:
        """Compare everything with everything, as the tests do.

        Raises:
            Void: Parts of the event's state contradict each other.
        """
        faults = list(find_faults(StoredState(self._client, self.event, partitions=PARTITIONS)))
        if faults:
            raise Void(f"{len(faults)} invariants are broken, first: {faults[0]}")

    def _counters(self) -> dict[str, bytes]:
        names = ["free:0:0", "held:0:0", "sold:0:0"]
        values: list[Any] = self._client.hmget(self._key("state"), names)
        return dict(zip(names, values, strict=True))

    def _wire(self, script: str, arguments: Sequence[bytes]) -> bytes:
        return pack_evalsha(lua.load(script).sha, self.keys(script), arguments)

    def _key(self, name: str) -> bytes:
        return event_key(self._partition, self.event.event.id, name)


def new_key() -> str:
    """An id as holds have them inside of an event's hashes."""
    return new_claim_id("x").partition("~")[0]
