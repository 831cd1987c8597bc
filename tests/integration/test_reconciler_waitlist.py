"""The duty to offer, on real servers: what comes free goes to the line within a second, whatever dies in between."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from postgres_outage import postgres_away
from reconciling import Installation, reconciling, until
from shops import at_once
from sqlalchemy.exc import SQLAlchemyError

from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.errors import PlacesUnavailable
from engine.ids import HoldId
from engine.kernel import offer_args
from engine.waitlist import WaitlistEntry
from holdfast.compose import make_equipment, open_parts, open_reconciler
from holdfast.settings import Settings, load_settings
from persistence.partition_leases import Everywhere
from persistence.reconciling import offer
from persistence.waitlist_entries import Wish

pytest_plugins = ("ledger_fixtures",)

ROW = 10  # seats of the only row


@pytest.fixture
def settings(redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path) -> Settings:
    return load_settings(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path),
            "HOLDFAST_PARTITIONS": "8",
        }
    )


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Installation]:
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


async def sell_out(shop: Installation) -> list[str]:
    """Every seat of ``gig`` is held by somebody; the holds."""
    await shop.open_event("gig")
    claims = [ClaimRequest([ItemRequest("stalls", seats=[f"A-{number}"])], ttl=900) for number in range(1, ROW + 1)]
    return [(await shop.parts.reservations.hold("gig", each, customer_id="ben")).hold.id for each in claims]


async def join(shop: Installation, customer_id: str, *, best: int = 1) -> WaitlistEntry:
    items = [ItemRequest("stalls", best=best)]
    wish = Wish(items=items, from_stop=None, to_stop=None, customer_id=customer_id, priority=0)
    return await shop.parts.waitlist.join("gig", wish)


async def let_go(shop: Installation, hold_id: str) -> None:
    await shop.parts.reservations.release(HoldId(hold_id), customer_id="ben")


async def becomes(shop: Installation, entry: WaitlistEntry, status: str, *, within_s: float = 5.0) -> float:
    """Wait until an entry has a status; how long it took."""
    began = asyncio.get_running_loop().time()
    while (await shop.parts.waitlist.find(entry.id)).status != status:
        assert asyncio.get_running_loop().time() - began < within_s, f"not {status} after {within_s} s"
        await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began


async def told(shop: Installation, type_: str) -> int:
    return int((await shop.postgres("SELECT count(*) FROM outbox WHERE type = $1", type_))[0][0])


async def test_freed_place_is_offered_within_a_second(shop: Installation) -> None:
    holds = await sell_out(shop)
    entries = [await join(shop, f"customer-{number}") for number in range(5)]
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.events == 1, within_s=5)
        took_s = []
        for hold_id, entry in zip(holds, entries, strict=False):
            await let_go(shop, hold_id)
            took_s.append(await becomes(shop, entry, "offered"))

        assert sorted(took_s)[2] < 1.0, took_s
        await until(lambda: reconciler.figures.done["offer"] == len(entries), within_s=2)


async def test_offers_that_lapse_go_down_the_line_by_themselves(shop: Installation) -> None:
    (hold_id, *_) = await sell_out(shop)
    await shop.postgres(
        "UPDATE events SET definition = jsonb_set(definition, '{policy,offer_ttl}', '1') WHERE id = 'gig'"
    )
    first, second = await join(shop, "ana"), await join(shop, "cy")
    async with reconciling(shop.settings):
        await let_go(shop, hold_id)
        await becomes(shop, first, "expired", within_s=8)
        await becomes(shop, second, "expired", within_s=8)

    assert await told(shop, "waitlist.offered") == 2


async def test_two_reconcilers_and_outsiders_serve_one_line_once(shop: Installation) -> None:
    holds = await sell_out(shop)
    entries = [await join(shop, f"customer-{number}", best=1) for number in range(8)]

    async def buy(number: int) -> object:
        claim = ClaimRequest([ItemRequest("stalls", best=1)])
        return await shop.parts.reservations.hold("gig", claim, customer_id=f"outsider-{number}")

    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(reconciling(shop.settings))
        calls: list[Coroutine[Any, Any, object]] = [let_go(shop, hold_id) for hold_id in holds[:8]]
        outcomes = await at_once([*calls, *map(buy, range(40))])
        for entry in entries:
            await becomes(shop, entry, "offered")
        await asyncio.sleep(0.6)  # two more looks

    assert [type(outcome) for outcome in outcomes] == [type(None)] * 8 + [PlacesUnavailable] * 40
    assert await told(shop, "waitlist.offered") == len(entries)


async def test_entry_that_redis_has_not_heard_of_is_put_in_line(shop: Installation) -> None:
    """The process died between the two halves of joining."""
    await sell_out(shop)
    event = await shop.parts.catalog.get("gig")
    entry = await join(shop, "ana")
    await shop.postgres("UPDATE waitlist SET settled = false")
    for name in ("waitlist", "entries", "wanted"):
        shop.redis.delete(shop.key(event, name))
    async with reconciling(shop.settings):
        await until(lambda: shop.redis.zcard(shop.key(event, "waitlist")) == 1, within_s=5)
    assert (await shop.parts.waitlist.find(entry.id)).position == 1


async def test_offer_of_which_the_notice_was_lost_is_heard_of(shop: Installation) -> None:
    (hold_id, *_) = await sell_out(shop)
    event = await shop.parts.catalog.get("gig")
    entry = await join(shop, "ana")
    await let_go(shop, hold_id)
    await shop.parts.kernel.run("offer_places", event, offer_args(event))
    shop.redis.delete(shop.key(event, "notices"))
    async with reconciling(shop.settings):
        await becomes(shop, entry, "offered")


async def test_offer_to_somebody_who_left_meanwhile_goes_to_the_next(shop: Installation) -> None:
    """They left in Postgres, and the process died before it told Redis."""
    (hold_id, *_) = await sell_out(shop)
    gone, second = await join(shop, "ana"), await join(shop, "cy")
    await shop.postgres("UPDATE waitlist SET status = 'cancelled', settled = false WHERE customer_id = 'ana'")
    await let_go(shop, hold_id)
    async with reconciling(shop.settings):
        await becomes(shop, second, "offered")
    await shop.parts.waitlist.settle(gone.id)
    assert await shop.postgres("SELECT FROM waitlist WHERE NOT settled") == []
    assert (await shop.parts.waitlist.find(gone.id)).status == "cancelled"
    assert (await shop.parts.waitlist.find(gone.id)).offer is None


async def test_offer_that_was_booked_or_released_like_any_hold_ends_its_entry(shop: Installation) -> None:
    holds = await sell_out(shop)
    booked, released = await join(shop, "ana"), await join(shop, "cy")
    async with reconciling(shop.settings):
        for hold_id in holds[:2]:
            await let_go(shop, hold_id)
        await becomes(shop, booked, "offered")
        await becomes(shop, released, "offered")
        await shop.parts.reservations.confirm(booked.id, BookingDetails(), customer_id="ana")
        await shop.parts.reservations.release(released.id, customer_id="cy")

        await becomes(shop, booked, "booked")
        await becomes(shop, released, "declined")


async def test_line_is_served_again_after_redis_has_lost_everything(shop: Installation) -> None:
    await sell_out(shop)
    entries = [await join(shop, f"customer-{number}") for number in range(ROW + 2)]
    async with reconciling(shop.settings):
        shop.redis.flushall()  # with it, the holds of ben: the whole row is free

        for entry in entries[:ROW]:
            await becomes(shop, entry, "offered", within_s=8)
    assert [(await shop.parts.waitlist.find(entry.id)).position for entry in entries[ROW:]] == [1, 2]


async def test_cancelled_event_leaves_nobody_waiting(shop: Installation) -> None:
    (hold_id, *_) = await sell_out(shop)
    offered, waiting = await join(shop, "ana"), await join(shop, "cy")
    event = await shop.parts.catalog.get("gig")
    async with reconciling(shop.settings):
        await let_go(shop, hold_id)
        await becomes(shop, offered, "offered")
        await shop.parts.reservations.publish(await shop.parts.events.transition("gig", "cancelled"))

        await becomes(shop, offered, "cancelled")
        await becomes(shop, waiting, "cancelled")
        await until(lambda: shop.redis.hlen(shop.key(event, "holds")) == ROW - 1, within_s=5)
        await until(lambda: not shop.redis.exists(shop.partition_key(event, "lines")), within_s=5)
    assert await told(shop, "waitlist.cancelled") == 2


async def test_offers_are_made_while_postgres_is_away_and_written_down_afterwards(shop: Installation) -> None:
    (hold_id, *_) = await sell_out(shop)
    event = await shop.parts.catalog.get("gig")
    entry = await join(shop, "ana")
    async with reconciling(shop.settings) as reconciler:
        await until(lambda: reconciler.figures.events == 1, within_s=5)
        assert shop.settings.database_url is not None
        async with postgres_away(shop.settings.database_url):
            await let_go(shop, hold_id)
            await until(lambda: shop.redis.exists(shop.key(event, "notices")), within_s=5)
        await becomes(shop, entry, "offered", within_s=8)


async def test_a_single_round_serves_the_line(shop: Installation) -> None:
    (hold_id, *_) = await sell_out(shop)
    entry = await join(shop, "ana")
    await let_go(shop, hold_id)
    async with open_reconciler(shop.settings) as reconciler:
        done = await reconciler.run_once()

    assert done.offered == 1
    assert (await shop.parts.waitlist.find(entry.id)).status == "offered"


async def test_entry_that_cannot_be_settled_keeps_no_other_waiting(
    shop: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer, "AT_ONCE_MAX", 1)
    await sell_out(shop)
    for number in range(3):
        await join(shop, f"customer-{number}")
    await shop.postgres("UPDATE waitlist SET status = 'cancelled', settled = false")  # by processes that died then
    await shop.postgres(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken row'; END $$"
    )
    await shop.postgres(
        "CREATE TRIGGER broken BEFORE UPDATE ON waitlist FOR EACH ROW WHEN (old.customer_id = 'customer-0') "
        "EXECUTE FUNCTION broken()"
    )
    entries = offer.SettleEntries(make_equipment(shop.parts, shop.settings))

    with pytest.raises(SQLAlchemyError, match="broken row"):
        await entries.work(Everywhere(range(shop.parts.kernel.partitions)))

    rows = await shop.postgres("SELECT settled FROM waitlist ORDER BY id")
    assert [row["settled"] for row in rows] == [False, True, True]
