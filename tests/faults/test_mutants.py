"""Every safety of the Python side is taken out once, and a short history with its fault must show it.

A history is lived through twice: with the safety it must end well, without it the invariants must break. The scripts'
safeties are taken out in ``tests/model/test_negative_controls.py``; the table of both in docs/faults.md is compared
with them here.
"""

import ast
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import mutants
import pytest
import redis
from figures import DOCUMENT
from invariants import assert_consistent
from ledger_lab import Lab
from script_runner import PARTITIONS
from shops import Shop, claim, open_shops

from engine.bookings import Booking, BookingDetails
from engine.errors import LedgerUnavailable, PlacesUnavailable
from engine.events import SellableEvent
from engine.journal import parse_entry, read_journal
from engine.once import Once
from engine.transport.errors import OutcomeUnknown
from persistence import database
from persistence.audit import audit_events
from persistence.repair import repair_event

pytest_plugins = ["ledger_fixtures"]
pytestmark = pytest.mark.short

DETAILS = BookingDetails(guest={"name": "Ana"})
SEAT = claim(section="stalls", seats=["A-1"])
ONCE = Once(b"a" * 32, b"b" * 32)
BEGIN, END = "<!-- mutants -->", "<!-- /mutants -->"
CONTROLS = Path(__file__).parents[1] / "model" / "test_negative_controls.py"
DEFINING = (Path(__file__), Path(__file__).with_name("test_double_sale.py"), CONTROLS)


class Scene:
    """One event that a shop sells, and the faults that may befall it."""

    def __init__(self, shop: Shop, lab: Lab, client: "redis.Redis", event: SellableEvent) -> None:
        self.shop = shop
        self.lab = lab
        self.redis = client
        self.event = event
        self.id = event.event.id
        self.acknowledged: list[Booking] = []

    async def book(self, what: Any = SEAT, *, customer: str = "ana", once: Once | None = None) -> None:
        """Book, and remember what the customer is told; a refusal is a good end as well."""
        with contextlib.suppress(PlacesUnavailable):
            book = self.shop.reservations.book(self.id, what, DETAILS, customer_id=customer, once=once)
            booking = (await book).booking
            if booking.status == "confirmed":
                self.acknowledged.append(booking)

    @contextlib.contextmanager
    def ledger_away(self) -> Iterator[None]:
        """Postgres takes no commits beside the block."""

        @contextlib.asynccontextmanager
        async def refuse(engine: Any) -> AsyncIterator[None]:
            raise LedgerUnavailable("it is away")
            yield

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "driver_connection", refuse)  # of the group commit: others know it already
            yield

    async def settle(self) -> None:
        """Let everything under way come to its end, and drain the journal."""
        await self.shop.settlement.close()
        await self.shop.drainer.drain_all()

    async def assert_kept(self) -> None:
        """What was acknowledged is in the ledger, no seat is in two bookings, and Redis says the same."""
        await self.settle()
        for booking in self.acknowledged:
            assert await self.lab.ledger.find_booking(booking.id), "an acknowledged booking is lost"
        sold = await self.lab.fetch("SELECT places FROM bookings WHERE event_id = $1 AND places LIKE '%#%'", self.id)
        assert len({row["places"] for row in sold}) == len(sold), "a seat is in two bookings"
        audit = await audit_events(self.shop.kernel, self.shop.bookings, self.shop.catalog, [self.id])
        assert audit.drift == 0, "Redis and ledger differ"

    async def assert_booked_once(self) -> None:
        """The one booking that was asked for is in the ledger."""
        await self.settle()
        count = await self.lab.value("SELECT count(*) FROM bookings WHERE event_id = $1", self.id)
        assert count == 1, f"{count} bookings of one request"


async def late_commit_after_redis_was_built_anew(scene: Scene) -> None:
    partition = scene.shop.kernel.partition_of(scene.event)
    with scene.ledger_away():
        await scene.book()
        ((number, fields),) = await read_journal(scene.shop.kernel, partition, after="0-0", until="+", limit=2)
    scene.redis.flushall()
    await scene.shop.reservations.hold(scene.id, SEAT, customer_id="bea")  # which the new state has free
    with contextlib.suppress(PlacesUnavailable):
        await scene.shop.settlement.settle(parse_entry(number, fields), scene.event)
    await scene.assert_kept()


async def redis_sells_what_is_sold(scene: Scene) -> None:
    await scene.book()
    await scene.shop.settlement.close()
    await scene.shop.kernel.event_command(scene.event, "SETBIT", "sold", 0, 0)
    await scene.book(customer="bea")
    await repair_event(scene.shop.kernel, scene.shop.bookings, scene.shop.loader, scene.event)
    await scene.assert_kept()


async def request_is_repeated_after_redis_forgot_it(scene: Scene) -> None:
    place = claim(section="floor", quantity=1)
    await scene.book(place, once=ONCE)
    await scene.shop.settlement.close()
    scene.redis.flushall()
    await scene.book(place, once=ONCE)
    await scene.assert_kept()
    await scene.assert_booked_once()


async def reply_is_lost(scene: Scene) -> None:
    transport = type(scene.shop.kernel.transport)
    send, lost = transport.evalsha, []

    async def lose_one(self: Any, script: Any, keys: Any, args: Any) -> Any:
        reply = await send(self, script, keys, args)
        if script.name == "hold_places" and reply[0] == b"HELD" and not lost:
            lost.append(script)
            raise OutcomeUnknown("the reply is lost")
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "evalsha", lose_one)
        place = claim(section="floor", quantity=1)
        held = await scene.shop.reservations.hold(scene.id, place, customer_id="ana")
    assert lost
    stored = assert_consistent(scene.redis, scene.event, partitions=PARTITIONS)
    assert [f"{key}~{scene.id}" for key in stored.holds] == [held.hold.id], "a hold that nobody was told of"


async def process_ends_while_the_ledger_is_away(scene: Scene) -> None:
    with scene.ledger_away():
        await scene.book()
        await scene.shop.settlement.close()
    await scene.assert_booked_once()
    await scene.assert_kept()


async def redis_forgets_while_the_ledger_is_away(scene: Scene) -> None:
    with scene.ledger_away():
        await scene.book()
        scene.redis.flushall()
    await scene.shop.reservations.availability(scene.id)  # which builds it anew
    await scene.assert_kept()


class Mutant(msgspec.Struct, frozen=True):
    """A mechanism, what takes it out, the history that finds it out, and what is found: other failures are no proof."""

    mechanism: str
    take_out: Callable[[pytest.MonkeyPatch], None]
    history: Callable[[Scene], Awaitable[None]]
    finding: str


MUTANTS = {
    "epochs are not compared": Mutant(
        "epoch check of the commit",
        mutants.epochs_are_not_compared,
        late_commit_after_redis_was_built_anew,
        "Redis and ledger differ",
    ),
    "claims in the way are not looked at": Mutant(
        "primary key of `claims`",
        mutants.claims_in_the_way_are_not_looked_at,
        redis_sells_what_is_sold,
        "a seat is in two bookings",
    ),
    "keys are left to Redis": Mutant(
        "idempotency keys in the ledger",
        mutants.keys_are_left_to_redis,
        request_is_repeated_after_redis_forgot_it,
        "2 bookings of one request",
    ),
    "retries have new ids": Mutant(
        "ids chosen by the caller", mutants.retries_have_new_ids, reply_is_lost, "a hold that nobody was told of"
    ),
    "the journal is dropped before the commit": Mutant(
        "journal until the commit",
        mutants.journal_is_dropped_before_the_commit,
        process_ends_while_the_ledger_is_away,
        "0 bookings of one request",
    ),
    "bookings are acknowledged before the commit": Mutant(
        "201 waits for the commit",
        mutants.bookings_are_acknowledged_before_the_commit,
        redis_forgets_while_the_ledger_is_away,
        "an acknowledged booking is lost",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_process_without_a_safety_is_found_out(
    redis_url: str, lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("persistence.audit.SETTLE_S", 0.02)
    mutant, client = MUTANTS[name], redis.Redis.from_url(redis_url)
    async with open_shops(redis_url, lab, 1) as (shop,):
        await mutant.history(Scene(shop, lab, client, await lab.event()))
    client.flushall()
    await lab.fetch("TRUNCATE idempotency")  # the second life begins without the first one's keys
    with monkeypatch.context() as patch:
        mutant.take_out(patch)
        async with open_shops(redis_url, lab, 1) as (shop,):
            with pytest.raises(AssertionError, match=mutant.finding):
                await mutant.history(Scene(shop, lab, client, await lab.event()))


def test_the_document_has_every_mutant_and_who_finds_it() -> None:
    told = DOCUMENT.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]

    assert told.strip() == _table()


def _table() -> str:
    """The mutants of Python, of both sides together, and of the scripts, each with the test that kills it, and how."""
    rows = [
        (mutant.mechanism, name, "test_process_without_a_safety_is_found_out", mutant.history.__name__)
        for name, mutant in MUTANTS.items()
    ]
    rows.append(
        ("both guards of a place", "neither is looked at", "test_a_planted_double_sale_is_found", "a short sale")
    )
    rows += [
        (f"`{script}`", name, "test_script_without_a_safety_is_found_out", history)
        for name, script, history in _script_mutants()
    ]
    defined = [name for path in DEFINING for name in re.findall(r"def (test_\w+)\(", path.read_text("utf-8"))]
    assert {test for _, _, test, _ in rows} <= set(defined)
    lines = [
        f"| {mechanism} | {name} | `{test}` | {history.replace('_', ' ')} |" for mechanism, name, test, history in rows
    ]
    return "\n".join(["| mechanism | mutant | killed by | which lives through |", "|---|---|---|---|", *lines])


def _script_mutants() -> list[tuple[str, str, str]]:
    """Name, script and history of each, from the text of their module: pytest has that one under a name of its own."""
    module = ast.parse(CONTROLS.read_text("utf-8"))
    (table,) = (node.value for node in module.body if isinstance(node, ast.Assign) and _names(node) == ["MUTANTS"])
    assert isinstance(table, ast.Dict)
    return [
        (ast.literal_eval(key), ast.literal_eval(call.args[0]), ast.unparse(call.args[3]))
        for key, call in zip(table.keys, table.values, strict=True)
        if key is not None and isinstance(call, ast.Call)
    ]


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]
