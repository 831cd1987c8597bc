"""A single round: what it finds and does, what it calls wrong, and that a dry one writes nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from reconciling import YESTERDAY, Installation

from engine.errors import EventNotFound, LedgerUnavailable
from holdfast.compose import make_equipment, open_parts
from holdfast.settings import load_settings
from persistence.database_checks import examine_database
from persistence.reconciling.rounds import Round
from persistence.reconciling.single_round import SingleRound

pytest_plugins = ("ledger_fixtures",)


@pytest.fixture
async def shop(
    redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    settings = load_settings(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path),
            "HOLDFAST_PARTITIONS": "8",
        }
    )
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


async def do_round(shop: Installation, event_ids: Sequence[str] | None = None, *, dry_run: bool = False) -> Round:
    equipment = make_equipment(shop.parts, shop.settings)
    return await SingleRound(equipment, dry_run=dry_run).run(event_ids)


async def test_lapsed_holds_and_events_that_are_over_are_daily_work(shop: Installation) -> None:
    event, over = await shop.open_event("gig"), await shop.open_event("gig-2")
    await shop.postgres("UPDATE events SET starts_at = $1 WHERE id = 'gig-2'", YESTERDAY)
    await shop.hold("gig", ttl_s=1)
    await asyncio.sleep(1.1)

    dry = await do_round(shop, dry_run=True)
    assert (dry.verdict, dry.reaped, dry.archived, dry.audited) == ("clean", 1, 1, 2)
    assert shop.counter(event, "held:0:0") == 2
    assert shop.is_loaded(over)

    done = await do_round(shop)
    assert (done.verdict, done.reaped, done.archived) == ("clean", 1, 1)
    assert shop.counter(event, "held:0:0") == 0
    assert not shop.is_loaded(over)
    assert [(event.event_id, event.archived) for event in done.events] == [("gig", False), ("gig-2", True)]


@pytest.mark.parametrize("age_s", [60, -3600], ids=["", "the clock was set back since"])
async def test_missing_events_and_old_entries_are_put_right_and_a_dry_round_only_finds_them(
    shop: Installation, age_s: int
) -> None:
    lost, other = await shop.open_event("lost"), await shop.open_event("other")
    booking_id = await shop.leave_behind(await shop.open_event("gig"), age_s=age_s)
    shop.redis.delete(shop.key(lost, "state"), shop.key(other, "state"))
    before = {key: shop.redis.dump(key) for key in shop.redis.scan_iter()}

    dry = await do_round(shop, dry_run=True)
    assert (dry.verdict, dry.drained) == ("repaired", 1)
    assert [event.event_id for event in dry.events if event.missing] == ["lost", "other"]
    assert {key: shop.redis.dump(key) for key in shop.redis.scan_iter()} == before

    only = await do_round(shop, ["lost"])
    assert (only.verdict, only.rebuilt, only.audited) == ("repaired", 1, 1)
    assert (shop.is_loaded(lost), shop.is_loaded(other)) == (True, False)

    everything = await do_round(shop)
    assert (everything.verdict, everything.rebuilt) == ("repaired", 1)
    assert only.drained + everything.drained == 1, "with the first, if that event is in its partition"
    assert shop.is_loaded(other)
    assert await shop.status_of(booking_id) == "confirmed"
    await shop.parts.settlement.close()
    assert (await do_round(shop)).verdict == "clean"


async def test_what_cannot_be_repaired_needs_a_person(shop: Installation) -> None:
    event = await shop.open_event("gig")
    await shop.postgres("DELETE FROM events")
    shop.parts.catalog.forget("gig")

    found = await do_round(shop)

    assert (found.verdict, found.unresolved, found.events[0].found) == ("person", 1, {"event_unknown": 1})
    assert shop.is_loaded(event)
    with pytest.raises(EventNotFound):
        await do_round(shop, ["gig"])


async def test_an_event_that_cannot_be_audited_does_not_keep_the_others_from_it(
    shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.open_event("gig")
    await shop.open_event("gig-2")
    find_event = shop.parts.events.find_event

    async def fail_one(event_id: str) -> object:
        if event_id == "gig":
            raise LedgerUnavailable("its row is locked")
        return await find_event(event_id)

    monkeypatch.setattr(shop.parts.events, "find_event", fail_one)
    shop.parts.catalog.forget("gig")
    found = await do_round(shop)

    assert (found.verdict, found.audited) == ("person", 1)
    assert [(event.event_id, event.error) for event in found.events] == [
        ("gig", "LedgerUnavailable: its row is locked")
    ]


async def test_doctor_misses_reconcilers_where_none_runs(shop: Installation) -> None:
    async def verdict() -> tuple[str, bool]:
        findings = await examine_database(shop.parts.database, workers=1, partitions=None)
        (finding,) = [finding for finding in findings if finding.subject == "reconcilers"]
        return finding.verdict, finding.remedy is not None

    assert await verdict() == ("warning", True)
    beat = "INSERT INTO reconcilers VALUES (gen_random_uuid(), 'here', 1, now(), now() - interval '{}', 8, '{{}}')"
    await shop.postgres(beat.format("31 seconds"))
    assert await verdict() == ("warning", True)
    await shop.postgres(beat.format("3 seconds"))
    assert await verdict() == ("ok", False)
