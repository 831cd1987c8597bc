"""Another data key: everything is sealed anew with it while the sale goes on, and the one before can be dropped."""

import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from reconciling import Installation
from warm_commands import WarmCommandLine

import persistence.resealing
from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.dead_letters import bury
from engine.ids import BookingId, parse_claim_id
from engine.journal import booking_of, read_journal
from holdfast.compose import open_parts
from holdfast.settings import Settings, SettingsError, load_settings
from persistence.resealing import Resealed, Resealer
from persistence.sealing import AesSealer

pytest_plugins = ("ledger_fixtures",)

OLD, NEW, LOST = b"k" * 32, b"n" * 32, b"l" * 32
NOTHING = Resealed(bookings=0, webhooks=0, unopened_bookings=0, unopened_webhooks=0, journal=0, dead_letters=0)


def encoded(*keys: bytes) -> str:
    return ",".join(base64.urlsafe_b64encode(key).decode().rstrip("=") for key in keys)


@pytest.fixture
def environment(
    redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path
) -> dict[str, str]:
    return {
        "REDIS_URL": redis_url,
        "DATABASE_URL": fresh_database(template=migrated_database),
        "HOLDFAST_DATA_DIR": str(tmp_path / "data"),
        "HOLDFAST_PARTITIONS": "4",
        "HOLDFAST_DATA_KEY": encoded(OLD),
    }


@pytest.fixture
def before(environment: dict[str, str]) -> Settings:
    return load_settings(environment)


@pytest.fixture
def rotating(environment: dict[str, str]) -> Settings:
    return load_settings(environment | {"HOLDFAST_DATA_KEY": encoded(NEW), "HOLDFAST_DATA_KEYS_OTHER": encoded(OLD)})


@pytest.fixture
def after(environment: dict[str, str]) -> Settings:
    return load_settings(environment | {"HOLDFAST_DATA_KEY": encoded(NEW)})


@pytest.fixture
async def shop(before: Settings) -> AsyncIterator[Installation]:
    """On sale, with the old key."""
    async with open_parts(before) as parts:
        yield Installation(parts, before)


async def book(shop: Installation, seat: str, note: str) -> str:
    claim = ClaimRequest([ItemRequest("stalls", seats=[seat])])
    booked = await shop.parts.reservations.book("gig", claim, BookingDetails(notes=note), customer_id="ben")
    return booked.booking.id


async def reseal(settings: Settings) -> Resealed:
    async with open_parts(settings) as parts:
        return await resealer(Installation(parts, settings), settings).run(lambda _: None)


def resealer(shop: Installation, settings: Settings) -> Resealer:
    keys = [settings.data_key or b"", *settings.data_keys_other]
    return Resealer(shop.parts.database, shop.parts.kernel, shop.parts.sinks, AesSealer(keys))


async def note_of(settings: Settings, booking_id: str) -> str | None:
    async with open_parts(settings) as parts:
        booking = await parts.bookings.find_booking(BookingId(booking_id))
    assert booking is not None
    return booking.notes


def uuid_of(booking_id: str) -> Any:
    claim = parse_claim_id(booking_id)
    assert claim is not None
    return claim.uuid


async def test_what_was_sealed_with_the_old_key_opens_with_the_new_one_alone(
    shop: Installation, rotating: Settings, after: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence.resealing, "PAGE", 3)  # several pages, the last one full
    await shop.open_event("gig")
    bookings = {await book(shop, f"A-{seat}", f"note {seat}"): f"note {seat}" for seat in range(1, 7)}
    await shop.parts.sinks.add("shop", "https://example.org/hook")
    (secret,) = (await shop.parts.sinks.find("shop")).secrets
    told = "SELECT id, version, updated_at, status FROM bookings ORDER BY id"
    state, outbox = await shop.postgres(told), await shop.postgres("SELECT count(*) FROM outbox")

    assert await reseal(rotating) == msgspec.structs.replace(NOTHING, bookings=6, webhooks=1)

    assert await reseal(rotating) == NOTHING
    assert (await shop.postgres(told), await shop.postgres("SELECT count(*) FROM outbox")) == (state, outbox)
    assert {booking_id: await note_of(after, booking_id) for booking_id in bookings} == bookings
    async with open_parts(after) as parts:
        assert (await parts.sinks.find("shop")).secrets == (secret,)


async def test_booking_that_is_changed_meanwhile_keeps_its_change_and_gets_the_new_key(
    shop: Installation, rotating: Settings, after: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.open_event("gig")
    booking_id = await book(shop, "A-1", "before")
    write = Resealer._write

    async def overtaken(self: Resealer, anew: Any) -> int:
        monkeypatch.setattr(Resealer, "_write", write)
        changed = AesSealer([OLD]).seal(BookingDetails(notes="changed"), BookingId(booking_id))
        await shop.postgres("UPDATE bookings SET sealed = $1 WHERE id = $2", changed, uuid_of(booking_id))
        return await write(self, anew)

    monkeypatch.setattr(Resealer, "_write", overtaken)
    assert (await reseal(rotating)).bookings == 1
    assert await note_of(after, booking_id) == "changed"


async def test_what_no_key_opens_is_left_as_it_is_and_told(shop: Installation, rotating: Settings) -> None:
    await shop.open_event("gig")
    kept, lost = await book(shop, "A-1", "kept"), await book(shop, "A-2", "lost")
    sealed = AesSealer([LOST]).seal(BookingDetails(notes="lost"), BookingId(lost))
    await shop.postgres("UPDATE bookings SET sealed = $1 WHERE id = $2", sealed, uuid_of(lost))
    await shop.parts.sinks.add("shop", "https://example.org/hook")
    await shop.postgres(
        "UPDATE sinks SET secrets = $1", AesSealer([LOST]).seal_text("whsec_x", b"holdfast webhook secrets:shop")
    )

    expected = msgspec.structs.replace(NOTHING, bookings=1, unopened_bookings=1, unopened_webhooks=1)
    assert await reseal(rotating) == expected
    assert await note_of(rotating, kept) == "kept"
    (row,) = await shop.postgres("SELECT sealed FROM bookings WHERE id = $1", uuid_of(lost))
    assert bytes(row["sealed"]) == sealed


async def test_what_waits_in_redis_is_counted_until_it_is_in_the_ledger(shop: Installation, rotating: Settings) -> None:
    event = await shop.open_event("gig")
    await shop.leave_behind(event, age_s=60)
    seen = await reseal(rotating)
    assert (seen.journal, seen.dead_letters, seen.left) == (1, 0, 1)

    partition = shop.parts.kernel.partition_of(event)
    ((journal_id, fields),) = await read_journal(shop.parts.kernel, partition, after="0", until="+", limit=10)
    assert await bury(shop.parts.kernel, partition, journal_id.decode(), booking=booking_of(fields), reason="a test")
    seen = await reseal(rotating)
    assert (seen.journal, seen.dead_letters, seen.left) == (0, 1, 1)


async def test_command_says_what_it_did_and_whether_the_other_keys_can_go(
    shop: Installation, environment: dict[str, str], rotating: Settings
) -> None:
    event = await shop.open_event("gig")
    await book(shop, "A-1", "aisle")
    waiting = await shop.leave_behind(event, age_s=60)
    keys = {"HOLDFAST_DATA_KEY": encoded(NEW), "HOLDFAST_DATA_KEYS_OTHER": encoded(OLD)}
    cli = WarmCommandLine(**(environment | keys))

    first = cli.run("reseal")
    assert (first.returncode, first.stderr) == (1, "")
    assert first.stdout.splitlines() == [
        "sealed anew: 1 booking and 0 webhooks",
        "left: 1 entry of the journal, on the way to the ledger: run this again",
    ]
    async with open_parts(rotating) as parts:
        await parts.drainer.drain_now(parts.kernel.partition_of(event))
    assert await shop.status_of(waiting) == "confirmed"
    assert cli.json("reseal") == msgspec.to_builtins(msgspec.structs.replace(NOTHING, bookings=1))
    assert cli.ok("reseal").splitlines() == [
        "sealed anew: 0 bookings and 0 webhooks",
        "nothing has another key than HOLDFAST_DATA_KEY: HOLDFAST_DATA_KEYS_OTHER can go,"
        " once tickets of admission queues from before the change have lapsed",
    ]


def test_other_keys_that_are_none_are_refused_without_being_shown(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="HOLDFAST_DATA_KEYS_OTHER") as refusal:
        load_settings(environment | {"HOLDFAST_DATA_KEYS_OTHER": f"{encoded(OLD)},short"})
    assert "short" not in str(refusal.value)
