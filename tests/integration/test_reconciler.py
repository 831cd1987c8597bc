"""The reconciler at work on real servers: what must happen though nobody asks for it, and how soon it does."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from reconciling import YESTERDAY, Installation, reconciling, until

from engine.errors import LedgerUnavailable, StoreUnavailable
from holdfast.compose import open_parts
from holdfast.settings import Settings, load_settings
from persistence.database import driver_connection
from persistence.heartbeats import read_heartbeats
from persistence.partition_leases import Everywhere
from persistence.reconciling.audit import ROTATION_S
from persistence.reconciling.clock import StoreClock
from persistence.reconciling.findings import Findings
from persistence.reconciling.partitions import Unreached
from persistence.reconciling.wake import Wake

pytest_plugins = ("ledger_fixtures",)

PARTITIONS = "8"


@pytest.fixture
def settings(redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path) -> Settings:
    return load_settings(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path),
            "HOLDFAST_PARTITIONS": PARTITIONS,
        }
    )


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Installation]:
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


async def test_holds_are_ended_on_time_though_nobody_calls(shop: Installation) -> None:
    event = await shop.open_event("gig")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.events == 1, within_s=5)
        await shop.hold("gig", ttl_s=1)
        assert shop.counter(event, "held:0:0") == 2

        took_s = await until(lambda: shop.counter(event, "held:0:0") == 0, within_s=3)

        assert took_s < 1.0 + 0.35  # a quarter of a second after the deadline, and what two busy cores add
        await until(lambda: reconciler.figures.reaped == 1, within_s=1)


async def test_holds_are_ended_while_postgres_is_away(shop: Installation) -> None:
    class Adrift:
        partitions: tuple[int, ...] = ()
        latest = tuple(range(int(PARTITIONS)))

    event = await shop.open_event("gig")
    await shop.hold("gig", ttl_s=1)
    findings = Findings()
    wake = Wake(shop.parts.kernel, StoreClock(shop.parts.kernel), findings)
    async with asyncio.timeout(3):
        while not findings.figures.reaped:
            await wake.work(Adrift())
            await asyncio.sleep(0.02)

    assert shop.counter(event, "held:0:0") == 0


async def test_a_wakeup_that_nothing_is_behind_is_not_tried_again_at_once(shop: Installation) -> None:
    event = await shop.open_event("gig")
    shop.redis.zadd(shop.partition_key(event, "wakeups"), {"gig": 1, "nothing": 1})
    territory = Everywhere(range(int(PARTITIONS)))
    wake = Wake(shop.parts.kernel, StoreClock(shop.parts.kernel), Findings())
    assert {event_id for _, event_id in await wake.find_due(territory, Unreached())} == {"gig", "nothing"}

    await wake.work(territory)

    assert await wake.find_due(territory, Unreached()) == []


async def test_bookings_of_a_process_that_died_are_written_to_the_ledger(shop: Installation) -> None:
    event = await shop.open_event("gig")
    booking_id = await shop.leave_behind(event, age_s=60)
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.drained == 1, within_s=5)

        assert await shop.status_of(booking_id) == "confirmed"
        await until(lambda: shop.redis.xlen(shop.partition_key(event, "journal")) == 0, within_s=2)


async def test_young_entries_are_left_to_the_process_that_made_them(shop: Installation) -> None:
    event = await shop.open_event("gig")
    await shop.leave_behind(event, age_s=2)
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.audited, within_s=5)
        await asyncio.sleep(1.2)  # longer than a round of draining

        assert reconciler.figures.drained == 0
        assert shop.redis.xlen(shop.partition_key(event, "journal")) == 1


async def test_a_booking_entered_under_a_clock_that_was_set_back_since_is_written(shop: Installation) -> None:
    booking_id = await shop.leave_behind(await shop.open_event("gig"), age_s=-3600)
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.drained == 1, within_s=5)
    assert await shop.status_of(booking_id) == "confirmed"


async def test_a_flushed_redis_is_rebuilt_at_once_though_nobody_calls(shop: Installation) -> None:
    events = [await shop.open_event(f"gig-{number}") for number in range(20)]
    booking_id = await shop.book("gig-7")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.events == 20, within_s=5)
        before = shop.counter(events[7], "epoch")
        shop.redis.flushall()

        took_s = await until(lambda: all(map(shop.is_loaded, events)), within_s=10)

        assert took_s < 5
        await until(lambda: reconciler.figures.rebuilt == 20, within_s=2)
    assert shop.counter(events[7], "epoch") == before + 1
    assert shop.redis.hkeys(shop.key(events[7], "bookings")) == [booking_id.partition("~")[0].encode()]


async def test_what_was_rebuilt_is_audited_before_its_turn_whoever_has_built_it(shop: Installation) -> None:
    events = [await shop.open_event(f"gig-{number}") for number in range(5)]
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.audited >= len(events), within_s=10)
        audits = reconciler.figures.audited
        shop.redis.flushall()
        await shop.hold("gig-3")  # a caller's process is the first to build this one
        await until(lambda: all(map(shop.is_loaded, events)), within_s=10)
        assert await until(lambda: reconciler.figures.audited >= audits + len(events), within_s=10) < ROTATION_S / 2


async def test_an_event_whose_state_alone_is_lost_is_rebuilt(shop: Installation) -> None:
    event = await shop.open_event("gig")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.events == 1, within_s=5)
        shop.redis.delete(shop.key(event, "state"))

        await until(lambda: shop.is_loaded(event), within_s=5)


async def test_an_event_that_its_index_has_lost_is_put_back(shop: Installation) -> None:
    event = await shop.open_event("gig")
    epoch = shop.counter(event, "epoch")
    live = shop.partition_key(event, "live")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.events == 1, within_s=5)
        shop.redis.srem(live, "gig")

        await until(lambda: shop.redis.smembers(live) == {b"gig"}, within_s=5)

    assert shop.counter(event, "epoch") == epoch, "it was there all the time"


async def test_a_state_that_has_gone_back_is_told_of_and_audited_before_its_turn(shop: Installation) -> None:
    event = await shop.open_event("gig")
    old = shop.redis.dump(shop.key(event, "state"))
    await shop.hold("gig")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.audited, within_s=5)
        audited = reconciler.figures.audited
        shop.redis.restore(shop.key(event, "state"), 0, old, replace=True)

        await until(lambda: reconciler.figures.regressed == 1, within_s=5)
        await until(lambda: reconciler.figures.audited > audited, within_s=5)
        assert reconciler.figures.found


async def test_an_event_that_is_over_leaves_redis_and_its_bookings_stay_readable(shop: Installation) -> None:
    event = await shop.open_event("gig")
    going_on = await shop.open_event("gig-2")
    booking_id = await shop.book("gig")
    await until(lambda: shop.redis.xlen(shop.partition_key(event, "journal")) == 0, within_s=5)
    await shop.postgres("UPDATE events SET starts_at = $1 WHERE id = 'gig'", YESTERDAY)
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: not shop.is_loaded(event), within_s=5)
        await until(lambda: reconciler.figures.archived == 1, within_s=1)
        await asyncio.sleep(1.5)  # longer than a look for what is missing

        assert not shop.is_loaded(event)
        assert reconciler.figures.rebuilt == 0
    assert shop.is_loaded(going_on)
    assert shop.redis.keys("*:gig:*") == []
    assert await shop.status_of(booking_id) == "confirmed"


async def test_an_event_is_kept_for_as_long_as_the_margin_says(shop: Installation) -> None:
    event = await shop.open_event("gig")
    ended_at = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
    await shop.postgres("UPDATE events SET starts_at = $1, ends_at = $2", YESTERDAY, ended_at)
    for margin_s, archived in ((3 * 3600.0, False), (3600.0, True)):
        settings = msgspec.structs.replace(shop.settings, archive_after_s=margin_s)
        async with reconciling(settings) as reconciler:
            await until(lambda r=reconciler: r.figures.audited, within_s=5)
            if archived:
                await until(lambda: not shop.is_loaded(event), within_s=5)
            else:
                await asyncio.sleep(0.5)
                assert shop.is_loaded(event)


async def test_an_index_that_names_an_event_of_which_nothing_is_left_is_cleared(shop: Installation) -> None:
    event = await shop.open_event("gig")
    await shop.postgres("UPDATE events SET status = 'cancelled'")
    shop.redis.delete(shop.key(event, "state"))
    async with reconciling(shop.settings):
        await until(lambda: not shop.redis.exists(shop.partition_key(event, "live")), within_s=5)


async def test_an_event_that_the_ledger_does_not_know_is_told_of_and_left_alone(shop: Installation) -> None:
    event = await shop.open_event("gig")
    await shop.postgres("DELETE FROM events")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.unresolved == {"event_unknown": 1}, within_s=5)

        assert shop.is_loaded(event)


async def test_a_clock_that_jumps_is_counted(shop: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    async with reconciling(shop.settings) as reconciler:
        await asyncio.sleep(0.3)
        kernel = reconciler._equipment.kernel
        honest = kernel.node_time_ms

        async def ten_minutes_ahead(node: object) -> int:
            return await honest(node) + 600_000  # type: ignore[arg-type]

        monkeypatch.setattr(kernel, "node_time_ms", ten_minutes_ahead)
        await until(lambda: reconciler.figures.clock_jumps == 1, within_s=4)


async def test_events_follow_a_clock_that_was_set_back_before_their_turn(shop: Installation) -> None:
    event = await shop.open_event("gig")
    ahead_ms = int((time.time() + 600) * 1000)  # as a clock leaves it that was so far ahead
    shop.redis.hset(shop.key(event, "state"), "clock", ahead_ms)
    await shop.hold("gig", ttl_s=1)
    async with reconciling(shop.settings) as reconciler:
        kernel = reconciler._equipment.kernel
        honest_node_ms, honest_ms = kernel.node_time_ms, kernel.time_ms

        async def node_ahead_ms(node: object) -> int:
            return await honest_node_ms(node) + 600_000  # type: ignore[arg-type]

        async def time_ahead_ms(partition: int) -> int:
            return await honest_ms(partition) + 600_000

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(kernel, "node_time_ms", node_ahead_ms)
            patched.setattr(kernel, "time_ms", time_ahead_ms)
            await until(lambda: reconciler.figures.audited, within_s=5)
            await asyncio.sleep(1.2)  # longer than from one look at the clock to the next
            assert not reconciler.figures.found

        took_s = await until(lambda: reconciler.figures.repaired == {"clock_wrong": 1}, within_s=10)
        assert took_s < ROTATION_S / 2
        await until(lambda: shop.counter(event, "held:0:0") == 0, within_s=4)


async def test_reconcilers_say_that_they_live_and_take_their_word_back_when_they_end(shop: Installation) -> None:
    await shop.open_event("gig")
    await shop.postgres(
        "INSERT INTO reconcilers VALUES (gen_random_uuid(), 'gone', 1, now(), now() - interval '1 hour', 8, '{}')"
    )
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.audited, within_s=5)
        async with asyncio.timeout(8):
            while True:
                beats = await read_heartbeats(shop.parts.database)
                if len(beats) == 1 and beats[0].figures.audited:
                    break
                await asyncio.sleep(0.1)
        assert beats[0].alive
        assert beats[0].partitions == int(PARTITIONS)
        assert beats[0].figures.events == 1
    assert await read_heartbeats(shop.parts.database) == []


async def test_reconciler_goes_on_when_its_sessions_were_cut(shop: Installation) -> None:
    event = await shop.open_event("gig")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.audited, within_s=5)
        await shop.postgres(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until(lambda: not reconciler.owned, within_s=3)
        await until(lambda: len(reconciler.owned) == int(PARTITIONS), within_s=5)
        shop.redis.flushall()

        await until(lambda: shop.is_loaded(event), within_s=5)


async def test_an_event_that_cannot_be_read_keeps_no_other_from_its_audit(shop: Installation) -> None:
    bad, good = await shop.open_event("bad"), await shop.open_event("good")
    await shop.book("good")
    shop.redis.delete(shop.key(bad, "users"))
    shop.redis.set(shop.key(bad, "users"), "no hash")
    shop.redis.hincrby(shop.key(good, "state"), "free:0:0", -7)

    async with reconciling(shop.settings) as reconciler:
        await until(lambda: shop.counter(good, "free:0:0") == 100, within_s=20)
        await until(lambda: reconciler.figures.failures.get("event"), within_s=10)


async def test_a_redis_of_a_later_epoch_than_the_ledger_is_not_emptied(shop: Installation) -> None:
    """Postgres was restored from a backup, say: Redis knows more than it does."""
    event = await shop.open_event("gig")
    hold = await shop.hold("gig")
    shop.redis.hset(shop.key(event, "state"), "epoch", 9)

    with pytest.raises(StoreUnavailable):
        await shop.parts.loader.load("gig")

    rows = await shop.postgres("SELECT epoch FROM events WHERE id = 'gig'")
    assert rows[0]["epoch"] == 1
    assert (await shop.parts.reservations.find_hold(hold, customer_id="ana")).id == hold


async def test_nothing_is_booked_between_the_last_look_at_the_journal_and_the_new_epoch(shop: Installation) -> None:
    event = await shop.open_event("gig")
    drained: list[int] = []
    booking: list[asyncio.Task[str]] = []

    async def drain(partition: int) -> None:
        drained.append(partition)
        await shop.parts.drainer.drain_now(partition)
        if len(drained) == 2:
            booking.append(asyncio.create_task(shop.book("gig")))
            await asyncio.sleep(0.1)
            assert shop.redis.hlen(shop.key(event, "bookings")) == 0

    shop.parts.loader.drain_with(drain)
    assert await shop.parts.loader.rebuild("gig", seen_epoch=1)

    assert await shop.status_of(await booking[0]) == "confirmed"
    assert shop.counter(event, "sold:1:0") == 1


async def test_a_rebuild_does_not_raise_the_epoch_over_bookings_that_the_ledger_could_not_take(
    shop: Installation,
) -> None:
    event = await shop.open_event("gig")
    booking_id = await shop.leave_behind(event, age_s=0)

    async with driver_connection(shop.parts.database) as other, other.transaction():
        await other.execute("LOCK TABLE bookings IN EXCLUSIVE MODE")  # may be read, as a load does, and not be added to
        with pytest.raises(LedgerUnavailable):
            await shop.parts.loader.rebuild("gig", seen_epoch=1)
        await shop.hold("gig")  # the event has stayed on sale

    assert await shop.parts.loader.rebuild("gig", seen_epoch=1)
    assert await shop.status_of(booking_id) == "confirmed"


async def test_a_load_does_not_raise_the_epoch_over_bookings_that_the_ledger_could_not_take(shop: Installation) -> None:
    event = await shop.open_event("gig")
    booking_id = await shop.leave_behind(event, age_s=0)
    shop.redis.delete(shop.key(event, "state"))

    async with driver_connection(shop.parts.database) as other, other.transaction():
        await other.execute("LOCK TABLE bookings IN EXCLUSIVE MODE")
        with pytest.raises(LedgerUnavailable):
            await shop.parts.loader.load("gig")

    await shop.parts.loader.load("gig")
    assert await shop.status_of(booking_id) == "confirmed"


async def test_a_rebuild_that_is_cut_off_before_it_has_begun_is_made_up_for_by_the_next_caller(
    shop: Installation,
) -> None:
    event = await shop.open_event("gig")
    seq = shop.counter(event, "seq")

    async def fail(_: int) -> None:
        if not shop.redis.hexists(shop.key(event, "state"), "epoch"):
            raise StoreUnavailable("the process is killed here")

    shop.parts.loader.drain_with(fail)
    with pytest.raises(StoreUnavailable):
        await shop.parts.loader.rebuild("gig", seen_epoch=1)
    shop.parts.loader.drain_with(shop.parts.drainer.drain_now)

    await shop.hold("gig")
    assert (shop.counter(event, "epoch"), shop.counter(event, "held:0:0")) == (2, 2)
    assert shop.counter(event, "seq") > seq


@pytest.mark.parametrize("age_s", [0, -3600], ids=["", "the clock was set back since"])
async def test_bookings_of_the_journal_are_in_the_ledger_before_the_epoch_is_raised_over_them(
    shop: Installation, age_s: int
) -> None:
    event = await shop.open_event("gig")
    booking_id = await shop.leave_behind(event, age_s=age_s)

    assert await shop.parts.loader.rebuild("gig", seen_epoch=1)

    assert await shop.status_of(booking_id) == "confirmed"
    assert shop.counter(event, "sold:0:0") == 3
