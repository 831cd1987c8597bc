"""The scripts run one by one on a real server, with time under the test's control.

An event's clock never runs backwards, so a test that sets it far ahead of the machine's decides what time it is: holds
lapse when the test says so, and nothing sleeps.
"""

import datetime as dt
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import hiredis
import msgspec
import redis
from redis.exceptions import NoScriptError

import lua
from engine.booking_batches import BookingBatches
from engine.definition import EventDefinition
from engine.events import Event, SellableEvent
from engine.ids import claim_id, parse_claim_id
from engine.journal_bound import JOURNAL_BYTES_MAX
from engine.keys import KeyRing, event_key, load_key, partition_key, partition_of
from engine.layout import compile_layout
from engine.loading import pack_rows, state_fields
from engine.ports import BookingColumns
from lua import Script

PARTITIONS = 4
FROZEN_MS = 3_900_000_000_000  # in the year 2093, before any event of these tests
STARTS_AT = "2100-01-01T20:00:00Z"
ONCE_TTL_MS = 86_400_000
TTL_MS = 60_000
OFFER_MS = 3_600_000

FLOOR = {"id": "floor", "price": 4500, "capacity": 10}
STALLS = {"id": "stalls", "price": 9000, "rows": [{"id": "A", "seats": "1-10"}, {"id": "B", "seats": "1-10"}]}


def sellable_event(
    *sections: dict[str, Any], event_id: str = "gig", status: str = "open", epoch: int = 1, **members: Any
) -> SellableEvent:
    """An event of these sections (a floor of ten and two rows of ten without any); *members* as in its JSON."""
    document = {
        "id": event_id,
        "name": "Gig",
        "starts_at": STARTS_AT,
        "currency": "EUR",
        "sections": list(sections) or [FLOOR, STALLS],
    } | members
    definition = msgspec.convert(document, EventDefinition)
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    event = Event(event_id, "olga", status, 1, epoch, definition, moment, moment)  # type: ignore[arg-type]
    return SellableEvent(event, compile_layout(definition))


class Runner:
    """Scripts by name, over a connection of the test's own; *scripts* replaces some of them, for mutants."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.scripts: dict[str, Script] = {}
        self._keys = KeyRing()

    def run(
        self,
        name: str,
        events: Sequence[SellableEvent],
        args: Sequence[object],
        *,
        once: str = "",
        onces: Sequence[str] = (),
        epoch: int | None = None,
    ) -> list[Any]:
        script = self.scripts.get(name) or lua.load(name)
        ids = [event.event.id for event in events]
        partition = partition_of(ids[0], events[0].definition.group, PARTITIONS)
        packed = self._keys.for_events(script, ids, partition, once.encode() if once else None, epoch)
        keys = self._keys.with_onces(packed, partition, [each.encode() for each in onces]).keys
        call = (script.sha.decode(), len(keys), *keys, *map(_argument, args))
        try:
            reply = self.redis.evalsha(*call)  # type: ignore[arg-type]
        except NoScriptError:
            self.redis.script_load(script.source)
            reply = self.redis.evalsha(*call)  # type: ignore[arg-type]
        answer: list[Any] = text_of(reply)
        return answer

    def dump(self) -> dict[bytes, Any]:
        """Everything in the server: two equal dumps mean that nothing was written in between."""
        return {
            key: _READERS[self.redis.type(key)](self.redis, key)  # type: ignore[index]
            for key in self.redis.scan_iter(count=1000)
        }

    @contextmanager
    def writes_nothing(self) -> Iterator[None]:
        before = self.dump()
        yield
        assert self.dump() == before


class ManyClaim(NamedTuple):
    """One of the claims of a call of ``hold_many``."""

    hold_id: str
    ttl_ms: int
    places: str
    owner: str = "ana"
    once: str = ""
    body: str = "b1"


class ManyConfirmation(NamedTuple):
    """One of the requests of a call of ``confirm_many``."""

    hold_id: str
    owner: str = "ana"
    attempt: str = "a1"
    once: str = ""
    body: str = "b1"


class Venue:
    """One event and its scripts; replies are lists of text and numbers. Its time stands still but for ``advance``."""

    _numbers = itertools.count(1)

    def __init__(self, runner: Runner, *sections: dict[str, Any], frozen: bool = True, **members: Any) -> None:
        self.runner = runner
        self.redis = runner.redis
        self.event = sellable_event(*sections, **members)
        self.layout = self.event.layout
        self.frozen = frozen
        self._batches: dict[int, BookingBatches] = {}
        self.load(epoch=1)

    @property
    def id(self) -> str:
        return self.event.event.id

    @property
    def partition(self) -> int:
        return partition_of(self.id, self.event.definition.group, PARTITIONS)

    # --- loading -------------------------------------------------------------

    def load(
        self,
        *,
        epoch: int,
        bookings: Sequence[tuple[str, str, str]] = (),
        batch_size: int = 500,
        twice: bool = False,
    ) -> None:
        """Load from a ledger that has *bookings*: (id, places, owner) each; *twice*, as when replies are lost."""
        now = self.now() if self.frozen and self.is_loaded() else FROZEN_MS
        assert self.begin_load(epoch) == ["LOADING"]
        for batch in _cut(bookings, batch_size):
            assert {*self.load_bookings(epoch, batch, times=1 + twice)} <= {"COUNTED"}
        for _ in range(1 + twice):
            if bookings:
                assert self.adopt_bookings(epoch) == ["ADOPTED"]
            self.load_places(epoch, bookings)
        assert self.finish_load(epoch)[0] == "READY"
        if self.frozen:
            self.set_time(now)

    def begin_load(self, epoch: int, *, keeps_history: bool = True) -> list[Any]:
        cells = len(self.layout.seats) * self.layout.legs
        fields = state_fields(self.event.event, self.layout)
        self._batches.setdefault(epoch, self._new_batches(epoch))
        return self._run("begin_load", self.id, epoch, pack_rows(self.layout), cells, "01"[keeps_history], *fields)

    def load_bookings(self, epoch: int, bookings: Sequence[tuple[str, str, str]], *, times: int = 1) -> list[str]:
        """Send a batch, and who came before at once; returns what ``count_customers`` has answered to each call."""
        batches = self._batches[epoch]
        for wire in batches.add(_columns(bookings)) * times:
            self.send(wire)
        calls = list(batches.take_again())
        return [self._run("count_customers", epoch, *args, epoch=epoch)[0] for args in calls for _ in range(times)]

    def send(self, wire: bytes) -> None:
        """Run a command that is packed."""
        reader = hiredis.Reader()
        reader.feed(wire)
        self.redis.execute_command(*reader.gets())  # type: ignore[no-untyped-call]

    def adopt_bookings(self, epoch: int) -> list[Any]:
        batches = self._batches[epoch]
        return self._run("adopt_bookings", epoch, batches.count, batches.customer_count, epoch=epoch)

    def load_places(self, epoch: int, bookings: Sequence[tuple[str, str, str]]) -> None:
        """What all of *bookings* own, as a loader adds it up."""
        batches = self._new_batches(epoch)
        if bookings:
            batches.add(_columns(bookings))
        for piece in batches.pieces():
            assert self._run("load_places", epoch, *piece) == ["LOADED"]

    def load_key(self, name: str, epoch: int) -> bytes:
        return load_key(self.partition, self.id, name, epoch)

    def _new_batches(self, epoch: int) -> BookingBatches:
        return BookingBatches(self.layout, self.load_key("new_bookings", epoch), self.load_key("new_users", epoch))

    def finish_load(self, epoch: int) -> list[Any]:
        return self._run("finish_load", self.id, epoch)

    # --- selling -------------------------------------------------------------

    def hold(
        self,
        places: str,
        *,
        hold_id: str | None = None,
        owner: str = "ana",
        ttl_ms: int = TTL_MS,
        once: str = "",
        body: str = "b1",
        layout: str | None = None,
    ) -> list[Any]:
        claim = (hold_id or new_id(), layout or self.layout.digest, places, ttl_ms)
        return self._run("hold_places", owner, body, ONCE_TTL_MS, *claim, once=once)

    def hold_many(self, *claims: tuple[str, int, str], owner: str = "ana", layout: str | None = None) -> list[Any]:
        """Claims of one customer as (hold id, ms, places)."""
        return self.hold_crowd(*(ManyClaim(*claim, owner) for claim in claims), layout=layout)

    def hold_crowd(self, *claims: "ManyClaim", layout: str | None = None) -> list[Any]:
        """The same of anybody, with or without idempotency keys."""
        texts = [
            f"{claim.hold_id}|{claim.ttl_ms}|{claim.places}|{claim.body if claim.once else ''}|{claim.owner}"
            for claim in claims
        ]
        onces = [claim.once for claim in claims if claim.once]
        return self._run("hold_many", layout or self.layout.digest, ONCE_TTL_MS, *texts, onces=onces)

    def held(self, places: str, **options: Any) -> str:
        """The id of a new hold that must be had at the first call."""
        hold_id: str = options.pop("hold_id", None) or new_id()
        reply = self.hold(places, hold_id=hold_id, **options)
        assert reply[0] == "HELD", reply
        return hold_id

    def hold_on(self, places: str, **options: Any) -> tuple[list[Any], int]:
        """The answer after following up every ``CONTINUE``, and how many of these there were."""
        for count in range(1000):
            reply = self.hold(places, **options)
            if reply != ["CONTINUE"]:
                return reply, count
        raise AssertionError("no progress: a thousand calls have all answered CONTINUE")

    def extend(self, hold_id: str, *, ttl_ms: int = TTL_MS, owner: str = "ana") -> list[Any]:
        return self._run("extend_hold", hold_id, owner, ttl_ms)

    def begin_payment(self, hold_id: str, *, owner: str = "ana", ttl_ms: int = TTL_MS) -> list[Any]:
        return self._run("begin_payment", hold_id, owner, ttl_ms)

    def release(
        self, hold_id: str, *, owner: str = "ana", attempt: str | None = None, once: str = "", body: str = "b1"
    ) -> list[Any]:
        """Without an *attempt* of its own every call is another request; *once* is the key that made the hold."""
        return self._run("release_hold", hold_id, owner, attempt or new_id(), body if once else "", once=once)

    def read(self, hold_id: str, *, owner: str = "ana") -> list[Any]:
        return self._run("read_hold", hold_id, owner)

    def confirm(
        self,
        hold_id: str,
        *,
        owner: str = "ana",
        attempt: str = "a1",
        once: str = "",
        body: str = "b1",
        journal_max: int = JOURNAL_BYTES_MAX,
    ) -> list[Any]:
        args = (hold_id, owner, attempt, b"sealed", body, once, ONCE_TTL_MS, journal_max)
        return self._run("confirm_hold", *args, once=once)

    def confirm_many(self, *requests: "ManyConfirmation", journal_max: int = JOURNAL_BYTES_MAX) -> list[Any]:
        """Confirmations by anybody, with or without idempotency keys."""
        args = [
            text
            for hold_id, owner, attempt, once, body in requests
            for text in (hold_id, owner, attempt, b"sealed", body if once else "", once)
        ]
        onces = [request.once for request in requests if request.once]
        return self._run("confirm_many", ONCE_TTL_MS, journal_max, *args, onces=onces)

    def book(
        self,
        places: str,
        *,
        booking_id: str | None = None,
        owner: str = "ana",
        attempt: str = "a1",
        once: str = "",
        body: str = "b1",
        layout: str | None = None,
        journal_max: int = JOURNAL_BYTES_MAX,
        letter: tuple[str, str] | None = None,
    ) -> list[Any]:
        """Book *places*; of a *letter*, by its id and text, what is booked comes from."""
        args = (booking_id or new_id(), owner, attempt, b"sealed", body, once, ONCE_TTL_MS, journal_max)
        return self._run("book_places", *args, layout or self.layout.digest, places, *(letter or ()), once=once)

    def booked(self, places: str, **options: Any) -> str:
        """The id of a new booking that must be had at the first call."""
        booking_id: str = options.pop("booking_id", None) or new_id()
        reply = self.book(places, booking_id=booking_id, **options)
        assert reply[0] == "CONFIRMED", reply
        return booking_id

    def unbook(
        self,
        booking_id: str,
        journal_id: str = "",
        *,
        refused_owner: str = "",
        once: str = "",
        body: str = "b1",
        keep: str = "",
    ) -> list[Any]:
        """Free a booking's places; *refused_owner* is to be told that the ledger has refused it."""
        return self._run("unbook_places", booking_id, journal_id, refused_owner, body, keep, once=once)

    def reserve(
        self,
        booking_id: str,
        old: str,
        quantity: int,
        *pieces: str,
        change: str = "c1",
        owner: str = "ana",
        hold_ids: Sequence[str] = (),
        sale_only: bool = True,
        layout: str | None = None,
    ) -> list[Any]:
        """Hold *pieces* for a booking that has *old*, and is to have *quantity* places."""
        names = hold_ids or [f"{change}.{number}" for number in range(len(pieces))]
        named = [f"{name}|{piece}" for name, piece in zip(names, pieces, strict=True)]
        args = (layout or self.layout.digest, old, quantity, "01"[sale_only], change, 2 * TTL_MS)
        return self._run("reserve_change", booking_id, owner, *args, *named)

    def apply(
        self, booking_id: str, new: str, *, gained: Sequence[str] = (), lost: Sequence[str] = (), change: str = "c1"
    ) -> list[Any]:
        pieces = [f"{change}.{number}|{piece}" for number, piece in enumerate(gained)]
        return self._run("apply_change", booking_id, change, new, *pieces, *(f"|{piece}" for piece in lost))

    def abandon(self, booking_id: str, *, count: int = 1, change: str = "c1") -> list[Any]:
        return self._run("abandon_change", booking_id, change, *(f"{change}.{number}" for number in range(count)))

    def transfer(
        self, booking_id: str, receiver: str, *, owner: str = "ana", transfer: str = "t1", mode: str = "give"
    ) -> list[Any]:
        return self._run("transfer_booking", booking_id, transfer, mode, receiver, owner)

    def read_booking(self, booking_id: str, *, owner: str = "") -> list[Any]:
        return self._run("read_booking", booking_id, owner)

    def bury(self, journal_id: str, letter: str = "letter", *, booking_id: str | None = None) -> list[Any]:
        """Without a *booking_id* that which the entry names."""
        if booking_id is None:
            booking_id = dict(self.journal()).get(journal_id, {}).get("booking", "")
        return self._run("bury_entry", journal_id, letter, booking_id)

    def drop(self, *entries: tuple[str, str]) -> list[Any]:
        """Drop entries as (journal id, booking id)."""
        return self._run("drop_entries", *itertools.chain.from_iterable(entries))

    def revive(self, journal_id: str, booking_id: str, letter: str = "letter", **fields: str) -> list[Any]:
        return self._run("revive_entry", journal_id, letter, booking_id, *itertools.chain.from_iterable(fields.items()))

    def discard(self, journal_id: str, letter: str = "letter") -> list[Any]:
        return self._run("discard_entry", journal_id, letter)

    def discard_booking(
        self, journal_id: str, booking_id: str, letter: str = "letter", *, once: str = "", body: str = "b1"
    ) -> list[Any]:
        return self._run("discard_booking", journal_id, letter, booking_id, "ana", body, once=once)

    def reap(self) -> list[Any]:
        return self._run("reap_event")

    def snapshot(self, *, cells: bool = False, known: str = "") -> list[Any]:
        return self._run("snapshot_event", "1" if cells else "0", known)

    def repair(self, *operations: str, epoch: int = 1, repairs: int | None = None) -> list[Any]:
        """Apply operations to what was seen just now, or when *repairs* were counted."""
        seen = int(self.redis.hget(self.key("state"), "repairs") or 0) if repairs is None else repairs  # type: ignore[arg-type]
        return self._run("repair_event", epoch, seen, *operations)

    def set_status(self, status: str, *, version: int = 2, closes_ms: int | None = None) -> list[Any]:
        closes = int(self.event.definition.starts_at.timestamp() * 1000) if closes_ms is None else closes_ms
        return self._run("set_status", status, closes, version)

    def archive(self, *, epoch: int | None = None, seq: int | None = None) -> list[Any]:
        """As after an audit that saw this *epoch* and *seq*; without, those of now."""
        epoch = self.state("epoch") if epoch is None else epoch
        return self._run("archive_event", self.id, epoch, self.state("seq") if seq is None else seq)

    def mark_audited(self, epoch: int, server: str = "") -> list[Any]:
        return self._run("mark_audited", epoch, server or self.server_id())

    def come_from_another_server(self) -> None:
        """As a replica finds itself after its promotion."""
        self.redis.hset(self.key("state"), "audited", "another")

    def read_trail(self, *, limit: int = 1000) -> list[Any]:
        return self._run("read_trail", limit)

    def forget_trail(self, number: int, last_id: str) -> list[Any]:
        last_ms, sequence = last_id.split("-")
        return self._run("forget_trail", number, last_ms, f"{last_ms}-{int(sequence) + 1}")

    # --- people in line ------------------------------------------------------

    def join(self, places: str, *, entry: str | None = None, score: int | None = None, owner: str = "ana") -> list[Any]:
        """Without a *score* whoever joins later comes later."""
        args = (self.id, entry or new_id(), next(self._numbers) if score is None else score, places, owner)
        return self._run("join_line", *args)

    def joined(self, places: str, **options: Any) -> str:
        """The id of an entry that is new in line."""
        entry: str = options.pop("entry", None) or new_id()
        assert self.join(places, entry=entry, **options) == ["JOINED"]
        return entry

    def leave(self, entry: str) -> list[Any]:
        return self._run("leave_line", self.id, entry)

    def offer(self, *, ttl_ms: int = OFFER_MS) -> list[Any]:
        return self._run("offer_places", self.id, ttl_ms)

    def offered(self, **options: Any) -> list[str]:
        """Everybody who is told of an offer once all were asked, in no order."""
        for _ in range(1000):
            reply = self.offer(**options)
            if reply != ["CONTINUE"]:
                return [entry for entry, notice in reply[1:] if notice.startswith("offered")]
        raise AssertionError("no progress: a thousand calls have all answered CONTINUE")

    def load_line(self, epoch: int, *entries: tuple[str, int, str, str]) -> list[Any]:
        return self._run("load_line", self.id, epoch, *("|".join(map(str, entry)) for entry in entries))

    def check(self, places: str, *, owner: str = "ana", layout: str | None = None) -> list[Any]:
        return self._run("check_wish", owner, layout or self.layout.digest, places)

    def forget_notices(self, *notices: str) -> list[Any]:
        return self._run("forget_notices", self.id, *notices)

    def line(self) -> list[str]:
        members: Any = self.redis.zrange(self.key("waitlist"), 0, -1)
        return text_of(members)  # type: ignore[no-any-return]

    def waiting(self) -> str | None:
        return text_of(self.redis.hget(self.key("state"), "waiting"))  # type: ignore[no-any-return]

    # --- what is in Redis ----------------------------------------------------

    def key(self, name: str) -> bytes:
        return event_key(self.partition, self.id, name)

    def take_tokens(
        self,
        *requests: tuple[str, str],
        interval_us: int = 60_000_000,
        burst: int = 3,
        address_burst: int = 5,
        ahead: bytes = b"",
    ) -> list[Any]:
        """Requests of a caller from an address each, by what stands for them in the table: `c1:ana`, or nothing."""
        marks = [one.partition(":") for request in requests for one in request]
        slots, digests = [slot for slot, _, _ in marks], [digest for _, _, digest in marks]
        return self._run("take_tokens", interval_us, burst, interval_us, address_burst, ahead, *slots, *digests)

    def set_clock(self, *, leeway_ms: int = 5_000) -> list[Any]:
        return self._run("set_clock", leeway_ms)

    def take_ticket(
        self, customer: str, *, interval_us: int = 500_000, ttl_ms: int = TTL_MS, most: int = 100
    ) -> list[Any]:
        return self._run("take_ticket", customer, interval_us, ttl_ms, most)

    def partition_key(self, name: str) -> bytes:
        return partition_key(self.partition, name)

    def state(self, field: str) -> int:
        return int(self.redis.hget(self.key("state"), field))  # type: ignore[arg-type]

    def counts(self, section: int = 0, leg: int = 0) -> tuple[int, int, int]:
        """Free, held and sold of a section's leg, as they stand, lapsed holds included."""
        return (
            self.state(f"free:{section}:{leg}"),
            self.state(f"held:{section}:{leg}"),
            self.state(f"sold:{section}:{leg}"),
        )

    def is_loaded(self) -> bool:
        return bool(self.redis.exists(self.key("state")))

    def journal(self) -> list[tuple[str, dict[str, str]]]:
        return self._stream("journal")

    def trail(self) -> list[tuple[str, dict[str, str]]]:
        """Line by line, with the id of its entry, which may have several."""
        entries: Any = self.redis.eval(  # redis-py makes a dictionary of an entry's fields, which all have one name
            "return redis.call('XRANGE', KEYS[1], '-', '+')", 1, self.partition_key("trail")
        )
        return [
            (text_of(number), {text_of(name): text_of(line)})
            for number, fields in entries
            for name, line in zip(fields[::2], fields[1::2], strict=True)
        ]

    def server_id(self) -> str:
        identity: str = self.redis.info("replication")["master_replid"]  # type: ignore[index]
        return identity

    def now(self) -> int:
        return self.state("clock")

    def real_ms(self) -> int:
        seconds, microseconds = self.redis.time()  # type: ignore[misc]
        return int(seconds * 1000 + microseconds // 1000)

    def set_time(self, now_ms: int) -> None:
        self.redis.hset(self.key("state"), "clock", now_ms)

    def advance(self, ms: int) -> None:
        self.redis.hincrby(self.key("state"), "clock", ms)

    def _run_in_partition(self, name: str, *args: object) -> list[Any]:
        return self.runner.run(name, [self.event], args)

    def _stream(self, name: str) -> list[tuple[str, dict[str, str]]]:
        entries: Any = self.redis.xrange(self.partition_key(name))
        return [(text_of(number), {text_of(k): text_of(v) for k, v in fields.items()}) for number, fields in entries]

    def _run(
        self, name: str, *args: object, once: str = "", onces: Sequence[str] = (), epoch: int | None = None
    ) -> list[Any]:
        return self.runner.run(name, [self.event], args, once=once, onces=onces, epoch=epoch)


def hold_together(
    venues: Sequence[Venue], places: Sequence[str], *, owner: str = "ana", once: str = "", ids: Sequence[str] = ()
) -> list[Any]:
    """``hold_places`` over several events of one group."""
    claims = [
        (hold_id, venue.layout.digest, claim, TTL_MS)
        for venue, claim, hold_id in zip(venues, places, ids or [new_id() for _ in venues], strict=True)
    ]
    args = [owner, "b1", ONCE_TTL_MS, *itertools.chain.from_iterable(claims)]
    return venues[0].runner.run("hold_places", [venue.event for venue in venues], args, once=once)


_ids = itertools.count(1)


def new_id() -> str:
    """An id as holds and bookings have them inside of an event's hashes; the last characters of each are different."""
    claim = parse_claim_id(claim_id(next(_ids), "x"))
    assert claim is not None
    return claim.key


def text_of(reply: Any) -> Any:
    """A reply with text for bytes; what is no UTF-8 survives as surrogates."""
    if isinstance(reply, bytes):
        return reply.decode(errors="surrogateescape")
    return [text_of(part) for part in reply] if isinstance(reply, list | tuple) else reply


def _argument(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")


def _columns(bookings: Sequence[tuple[str, str, str]]) -> BookingColumns:
    """Bookings of (id, places, owner) as a loader reads them from the ledger."""
    keys, places, owners = zip(*bookings, strict=True)
    ids = [parse_claim_id(f"{key}~gig").uuid.bytes for key in keys]  # type: ignore[union-attr]
    return BookingColumns(ids, [str(FROZEN_MS)] * len(ids), places, owners)


def _cut(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


_READERS: dict[bytes, Any] = {
    b"hash": lambda client, key: client.hgetall(key),
    b"string": lambda client, key: client.get(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    b"set": lambda client, key: client.smembers(key),
    b"stream": lambda client, key: client.xrange(key),
}
