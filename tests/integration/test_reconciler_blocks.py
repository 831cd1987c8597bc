"""The reconciler puts places on sale again that were taken off it for a time."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from reconciling import Installation, reconciling, until
from sqlalchemy.exc import IntegrityError

import persistence.blocks as blocks_module
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.errors import PlacesUnavailable
from engine.lifecycle import Actor
from holdfast.compose import make_equipment, open_parts
from holdfast.settings import Settings, load_settings
from persistence.blocks import BlockOrder
from persistence.reconciling.single_round import SingleRound

pytest_plugins = ("ledger_fixtures",)

OLGA = Actor("olga", "organizer")


@pytest.fixture
def settings(redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path) -> Settings:
    return load_settings(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path),
            "HOLDFAST_PARTITIONS": "4",
        }
    )


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Installation]:
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


async def block(shop: Installation, event_id: str, seat: str, *, for_s: float | None) -> str:
    release_at = None if for_s is None else dt.datetime.now(dt.UTC) + dt.timedelta(seconds=for_s)
    claim = ClaimRequest([ItemRequest("stalls", seats=[seat])])
    order = BlockOrder(claim=claim, release_at=release_at, reason=None, actor=OLGA)
    return (await shop.parts.blocks.block(event_id, order)).block.id


async def live_blocks(shop: Installation, event_id: str) -> set[str]:
    return {one.id for one in (await shop.parts.blocks.list_blocks(event_id, limit=10)).items}


async def test_places_come_back_by_the_clock_alone_though_nobody_ran_when_they_were_blocked(shop: Installation) -> None:
    event = await shop.open_event("gig")
    first = await block(shop, "gig", "A-1", for_s=0.2)
    kept, later = await block(shop, "gig", "A-2", for_s=None), await block(shop, "gig", "A-3", for_s=3600)
    await asyncio.sleep(0.25)
    with pytest.raises(PlacesUnavailable):
        await shop.book("gig", "A-1")
    shop.redis.flushall()  # whoever comes next begins with nothing but the ledger

    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.done.get("blocks") == 1, within_s=5)

    assert await live_blocks(shop, "gig") == {kept, later}
    await shop.book("gig", "A-1")
    with pytest.raises(PlacesUnavailable):
        await shop.book("gig", "A-2")
    (line,) = await shop.postgres("SELECT * FROM history WHERE to_status = 'unblocked'")
    assert (line["actor"], line["role"], line["reason"]) == ("holdfast", "system", "its time was over")
    assert shop.counter(event, "sold:1:0") == 3
    assert (await shop.parts.oversight.audit("gig")).drift == 0
    assert first not in await live_blocks(shop, "gig")


async def test_a_single_round_says_what_it_gave_back_and_a_dry_one_what_it_would(shop: Installation) -> None:
    await shop.open_event("gig")
    due = await block(shop, "gig", "A-1", for_s=0.1)
    await asyncio.sleep(0.15)
    equipment = make_equipment(shop.parts, shop.settings)

    dry = await SingleRound(equipment, dry_run=True).run()
    assert (dry.unblocked, await live_blocks(shop, "gig")) == (1, {due})
    done = await SingleRound(equipment, dry_run=False).run()

    assert (done.unblocked, await live_blocks(shop, "gig")) == (1, set())
    assert done.verdict == "clean"


async def block_floor(shop: Installation, event_id: str, *, for_s: float) -> str:
    """A block that cannot be given back: the counter of its section says that nobody has a place in it."""
    release_at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=for_s)
    order = BlockOrder(
        claim=ClaimRequest([ItemRequest("floor", quantity=5)]), release_at=release_at, reason=None, actor=OLGA
    )
    block_id = (await shop.parts.blocks.block(event_id, order)).block.id
    await shop.postgres("UPDATE usage SET sold = 0 WHERE event_id = $1", event_id)
    return block_id


async def test_block_that_cannot_be_given_back_keeps_no_later_one_waiting(shop: Installation) -> None:
    await shop.open_event("gig")
    broken = await block_floor(shop, "gig", for_s=0.2)
    await block(shop, "gig", "A-1", for_s=0.25)
    await asyncio.sleep(0.3)

    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.failures.get("blocks", 0) > 0, within_s=5)

    assert await live_blocks(shop, "gig") == {broken}
    await shop.book("gig", "A-1")


async def test_blocks_that_cannot_be_given_back_have_their_turns_as_the_others_have(
    shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "RELEASES_MAX", 2)
    await shop.open_event("gig")
    broken = {await block_floor(shop, "gig", for_s=0.2) for _ in range(3)}
    for number in range(1, 3):
        await block(shop, "gig", f"A-{number}", for_s=0.3)
    await asyncio.sleep(0.4)
    blocks = shop.parts.blocks

    for _ in range(2):
        with pytest.raises(IntegrityError):
            await blocks.release_due()
    assert await blocks.release_due() == 1
    assert await live_blocks(shop, "gig") == broken

    await shop.postgres("UPDATE usage SET sold = 15 WHERE event_id = 'gig' AND section = 0")
    assert [await blocks.release_due() for _ in range(2)] == [2, 1], "they are tried again"


async def test_a_single_round_goes_on_behind_what_cannot_be_given_back_and_says_so(shop: Installation) -> None:
    await shop.open_event("gig")
    broken = await block_floor(shop, "gig", for_s=0.2)
    await block(shop, "gig", "A-1", for_s=0.25)
    await asyncio.sleep(0.3)

    done = await SingleRound(make_equipment(shop.parts, shop.settings), dry_run=False).run()

    assert (done.verdict, list(done.held_up), done.audited) == ("person", ["blocks"], 1)
    assert await live_blocks(shop, "gig") == {broken}


async def test_several_reconcilers_at_once_give_each_block_back_once(shop: Installation) -> None:
    await shop.open_event("gig")
    for number in range(1, 9):
        await block(shop, "gig", f"A-{number}", for_s=0.6)
    await asyncio.sleep(0.7)

    counts = await asyncio.gather(*(shop.parts.blocks.release_due() for _ in range(4)))

    assert sum(counts) == 8
    (row,) = await shop.postgres("SELECT count(*) AS lines FROM history WHERE to_status = 'unblocked'")
    assert row["lines"] == 8
    assert (await shop.parts.oversight.audit("gig")).drift == 0
