"""The history of holds: stored from the trail whatever comes twice, late or never, and purged in time."""

import asyncio
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from ledger_lab import Lab
from servers import LocalServers
from shops import at_once, claim, open_shops

from engine.catalog import Catalog
from engine.claim_requests import Held
from engine.errors import LedgerUnavailable, StoreUnavailable
from engine.events import SellableEvent
from engine.ids import new_claim_id, parse_claim_id
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.trail import begin_trail, read_trail
from persistence import hold_history
from persistence.database import open_database
from persistence.hold_history import first_id_at, moment, purge_hold_history, store_trail

pytest_plugins = ("ledger_fixtures",)

T0 = 1_790_000_000_000
GONE_DATABASE = "postgresql://nobody@/nothing?host=/nowhere"


class Trail:
    """The trail of one event's partition, with lines by hand: any past can be told, and in any order."""

    def __init__(self, kernel: Kernel, lab: Lab, event: SellableEvent) -> None:
        self.kernel, self.lab, self.event = kernel, lab, event
        self.partition = kernel.partition_of(event)
        self.key = new_key()

    async def add(self, word: str, until_ms: int, *, key: str | None = None, made_ms: int = T0) -> None:
        key = self.key if key is None else key
        text = f"{key}|{word}|{made_ms}|{until_ms}|1|0:1;1#3|ana"
        await self.kernel.partition_command(self.partition, "XADD", "trail", "*", self.name, text)

    async def rebuilt(self, at_ms: int) -> None:
        await self.add("rebuilt", at_ms, key="", made_ms=at_ms)

    @property
    def name(self) -> str:
        """What the field of the event's lines is called."""
        return f"hf:{{{self.partition}}}:{self.event.event.id}:state"

    async def store(self, **options: Any) -> int:
        return await store_trail(self.kernel, self.lab.engine, self.partition, **options)

    async def length(self) -> int:
        return int(await self.kernel.partition_command(self.partition, "XLEN", "trail"))

    async def rows(self) -> list[tuple[Any, ...]]:
        query = "SELECT customer_id, places, made_at, until_at, outcome FROM hold_history ORDER BY id"
        return [tuple(row) for row in await self.lab.fetch(query)]

    async def outcome(self) -> tuple[str | None, int]:
        """How the hold ended, and when, in ms."""
        ((_, _, _, until, outcome),) = await self.rows()
        return outcome, round(until.timestamp() * 1000)


def new_key() -> str:
    return new_claim_id("x").partition("~")[0]


@pytest.fixture(scope="module")
def database(servers: LocalServers, migrated_database: str) -> Iterator[str]:
    """One for all tests here: making one takes longer than any of them."""
    with servers.database(migrated_database) as url:
        yield url


@pytest.fixture
async def lab(database: str) -> AsyncIterator[Lab]:
    made = Lab(database)
    await made.fetch("TRUNCATE hold_history")
    yield made
    await made.close()


@pytest.fixture
async def trail(redis_url: str, lab: Lab) -> AsyncIterator[Trail]:
    """The trail of an event that is loaded, with what that left in it already stored."""
    async with open_shops(redis_url, lab, 1) as (shop,):
        event = await lab.event()
        await shop.loader.load(event.event.id)
        made = Trail(shop.kernel, lab, event)
        assert await made.store() == 1
        yield made


async def test_what_scripts_left_is_stored_and_dropped(redis_url: str, lab: Lab) -> None:
    async with open_shops(redis_url, lab, 1) as (shop,):
        event = await lab.event()
        held = await shop.reservations.hold(event.event.id, claim(section="stalls", seats=["A-4"]), customer_id="ana")
        made = Trail(shop.kernel, lab, event)
        assert await made.store() == 2
        assert await made.length() == 0
        assert await made.store() == 0
        ((customer_id, places, made_at, until_at, outcome),) = await made.rows()
        assert (customer_id, places, outcome) == ("ana", "0:1;1#3", None)
        assert (made_at, until_at) == (held.hold.created_at, held.hold.expires_at)
        key = parse_claim_id(held.hold.id)
        assert key is not None
        assert await lab.value("SELECT id FROM hold_history") == key.uuid


async def test_holds_of_a_batch_are_stored_each(trail: Trail, redis_url: str, lab: Lab) -> None:
    async with open_shops(redis_url, lab, 1) as (shop,):
        claims = [claim(section="floor", quantity=1)] * 12
        held = await shop.reservations.hold_many(
            trail.event.event.id, claims, customer_id="ana", onces=[None] * len(claims)
        )
        assert [type(outcome) for outcome in held] == [Held] * 12
    assert await trail.store() == 2  # entries, of ten lines and of two
    assert len(await trail.rows()) == 12


async def test_lines_may_be_stored_in_any_order_and_twice(trail: Trail) -> None:
    lines = [("active", T0 + 60_000), ("active", T0 + 90_000), ("confirmed", T0 + 70_000), ("refused", T0 + 80_000)]
    orders = [(new_key(), order) for order in itertools.permutations(lines)]
    for number in (0, 1, 2, 3, 0):
        for key, order in orders:
            await trail.add(*order[number], key=key)
        await trail.store()
    assert [row[3:] for row in await trail.rows()] == [(moment(T0 + 80_000), "refused")] * len(orders)


async def test_lines_of_one_batch_count_together(trail: Trail) -> None:
    for line in (("active", T0 + 60_000), ("active", T0 + 90_000)):
        await trail.add(*line)
    assert await trail.store() == 2
    assert await trail.outcome() == (None, T0 + 90_000)


async def test_end_alone_is_enough_to_know_the_whole_hold(trail: Trail) -> None:
    """When the line of its making was trimmed, or was never stored."""
    await trail.add("expired", T0 + 60_000)
    await trail.store()
    assert await trail.rows() == [("ana", "0:1;1#3", moment(T0), moment(T0 + 60_000), "expired")]


async def test_rebuild_ends_the_holds_from_before_and_none_after(trail: Trail) -> None:
    later = new_key()
    await trail.add("active", T0 + 60_000)
    await trail.store()
    await trail.rebuilt(T0 + 20_000)
    await trail.add("active", T0 + 90_000, key=later, made_ms=T0 + 20_000)
    await trail.store()
    assert [row[3:] for row in await trail.rows()] == [
        (moment(T0 + 20_000), "rebuilt"),
        (moment(T0 + 90_000), None),
    ]


async def test_rebuild_does_not_lengthen_a_hold_nor_touch_what_has_ended_or_is_another_event_s(
    trail: Trail, lab: Lab
) -> None:
    other, ended = Trail(trail.kernel, lab, await lab.event()), new_key()
    other.partition = trail.partition  # whichever it has
    await trail.add("active", T0 + 60_000)
    await trail.add("released", T0 + 10_000, key=ended)
    await other.add("active", T0 + 60_000)
    await trail.rebuilt(T0 + 900_000)
    await trail.store()
    assert {row[3:] for row in await trail.rows()} == {
        (moment(T0 + 60_000), "rebuilt"),
        (moment(T0 + 10_000), "released"),
        (moment(T0 + 60_000), None),
    }


async def test_end_that_comes_to_be_known_after_a_rebuild_is_believed(trail: Trail) -> None:
    await trail.add("active", T0 + 60_000)
    await trail.rebuilt(T0 + 20_000)
    await trail.store()
    await trail.add("released", T0 + 10_000)
    await trail.store()
    assert await trail.outcome() == ("released", T0 + 10_000)


async def test_several_that_store_at_once_store_everything_once(trail: Trail, lab: Lab) -> None:
    keys = [new_key() for _ in range(600)]
    for word, until_ms in (("active", T0 + 60_000), ("expired", T0 + 60_000)):
        await asyncio.gather(*(trail.add(word, until_ms, key=key) for key in keys))
    counts = await at_once([trail.store() for _ in range(4)])
    assert not [count for count in counts if isinstance(count, BaseException)]
    assert await lab.value("SELECT count(*) FROM hold_history WHERE outcome = 'expired'") == len(keys)
    assert await lab.value("SELECT count(*) FROM hold_history") == len(keys)
    assert await trail.length() == 0


async def test_crash_between_storing_and_dropping_only_stores_again(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trail.add("active", T0 + 60_000)
    with monkeypatch.context() as patched:

        async def crash(*_: object) -> None:
            raise StoreUnavailable("gone")

        patched.setattr(hold_history, "forget_trail", crash)
        with pytest.raises(StoreUnavailable):
            await trail.store()
    assert await trail.length() == 1
    before = await trail.rows()
    assert await trail.store() == 1
    assert await trail.rows() == before
    assert await trail.length() == 0


async def test_nothing_is_dropped_while_postgres_is_away(trail: Trail) -> None:
    await trail.add("active", T0 + 60_000)
    away = open_database(GONE_DATABASE)
    with pytest.raises(LedgerUnavailable):
        await store_trail(trail.kernel, away, trail.partition)
    await away.dispose()
    assert await trail.length() == 1


async def test_lines_that_were_trimmed_leave_a_gap(trail: Trail, lab: Lab) -> None:
    for number in range(5):
        await trail.add("active", T0 + number)
    await trail.kernel.partition_command(trail.partition, "XTRIM", "trail", "MAXLEN", 2)
    assert await trail.store() == 2
    row = (await lab.fetch("SELECT * FROM hold_history WHERE outcome = 'gap'"))[0]
    assert (row["event_id"], row["places"]) == (f"partition:{trail.partition}", "3")
    assert dt.timedelta() <= row["until_at"] - row["made_at"] < dt.timedelta(minutes=1)
    assert await trail.store() == 0
    assert await lab.value("SELECT count(*) FROM hold_history WHERE outcome = 'gap'") == 1


async def test_line_that_no_script_wrote_does_not_hold_up_the_others(trail: Trail) -> None:
    for fields in (("no", "line"), (trail.name, "x|active|1"), (trail.name, f"{trail.key}|eaten|1|2|1|0:1;1#3|ana")):
        await trail.kernel.partition_command(trail.partition, "XADD", "trail", "*", *fields)
    await trail.add("expired", T0 + 60_000)
    assert await trail.store() == 4
    assert await trail.outcome() == ("expired", T0 + 60_000)
    assert await trail.length() == 0


async def test_trail_ends_and_begins_as_history_is_switched(trail: Trail) -> None:
    await trail.add("expired", T0 + 60_000)
    assert await trail.store(keep=False) == 1
    assert not await trail.kernel.partition_command(trail.partition, "EXISTS", "trail")
    assert await trail.store(keep=False) == 0
    assert not await trail.kernel.partition_command(trail.partition, "EXISTS", "trail")
    assert await trail.store() == 0
    assert await trail.kernel.partition_command(trail.partition, "EXISTS", "trail")


async def test_trail_that_has_just_begun_has_nothing_that_cannot_be_read(trail: Trail) -> None:
    await trail.store(keep=False)
    await begin_trail(trail.kernel, trail.partition)
    await trail.add("active", T0 + 1)

    part = await read_trail(trail.kernel, trail.partition)

    assert part is not None
    assert (len(part.ids), len(part.lines), part.unreadable) == (2, 1, 0)


async def test_event_that_is_loaded_where_no_history_is_kept_begins_no_trail(redis_url: str, lab: Lab) -> None:
    async with open_shops(redis_url, lab, 1) as (shop,):
        event = await lab.event()
        await EventLoader(shop.kernel, lab.events, Catalog(lab.events), keeps_history=False).load(event.event.id)
        assert await shop.kernel.epoch_in_store(event) == 1
        assert not await shop.kernel.partition_command(shop.kernel.partition_of(event), "EXISTS", "trail")


async def test_purge_deletes_what_ended_before_the_time_kept_in_bounded_steps(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_history, "PURGED_AT_ONCE", 3)
    now = dt.datetime.now(dt.UTC)
    days = dt.timedelta(days=1)
    spans = [(40, 39)] * 7 + [(31, 29)] + [(29, 29)] + [(0, 0)]  # made and ended that many days ago
    for number, (made, until) in enumerate(spans):
        await lab.fetch(
            "INSERT INTO hold_history VALUES ($1, 'gig', 'ana', '0:1;1#3', $2, $3, 'expired')",
            first_id_at(now - made * days, number),
            now - made * days,
            now - until * days,
        )
    assert await purge_hold_history(lab.engine, older_than=30 * days) == 7
    assert await purge_hold_history(lab.engine, older_than=30 * days) == 0
    left = await lab.fetch("SELECT until_at FROM hold_history")
    assert len(left) == 3  # a long hold is kept until it has ended long enough ago
