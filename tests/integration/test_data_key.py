"""A data key that is not the installation's is noticed before anything is sealed with it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from command_line import CommandLine
from reconciling import Installation
from sqlalchemy.ext.asyncio import AsyncEngine
from warm_commands import WarmCommandLine

from engine.bookings import BookingDetails
from engine.ids import BookingId, parse_claim_id
from holdfast.compose import open_parts, open_reconciler, open_services
from holdfast.settings import Settings, SettingsError, load_settings
from persistence.bookings import BookingFilter
from persistence.canary import RENEW, DataKeyDiffers, compare_data_key, require_data_key
from persistence.database import driver_connection, open_database
from persistence.installation import ensure_partitions
from persistence.sealing import AesSealer

pytest_plugins = ("ledger_fixtures",)

SERVERS = ("REDIS_URL", "DATABASE_URL", "HOLDFAST_DATA_DIR")
KEY, OTHER = b"k" * 32, b"o" * 32
OURS, THEIRS = AesSealer([KEY]), AesSealer([OTHER])


def encoded(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


@pytest.fixture
def settings(redis_url: str, fresh_database: Callable[..., str], migrated_database: str, tmp_path: Path) -> Settings:
    return load_settings(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": fresh_database(template=migrated_database),
            "HOLDFAST_DATA_DIR": str(tmp_path / "data"),
            "HOLDFAST_DATA_KEY": encoded(KEY),
            "HOLDFAST_PARTITIONS": "4",
        }
    )


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    assert settings.database_url is not None
    engine = open_database(settings.database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def cli(settings: Settings) -> WarmCommandLine:
    return WarmCommandLine(
        REDIS_URL=str(settings.redis_url), DATABASE_URL=str(settings.database_url), HOLDFAST_DATA_DIR=settings.data_dir
    )


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


async def execute(engine: AsyncEngine, statement: str, *arguments: object) -> list[Any]:
    async with driver_connection(engine) as connection:
        rows: list[Any] = await connection.fetch(statement, *arguments)
        return rows


async def canary(engine: AsyncEngine) -> str | None:
    rows = await execute(engine, "SELECT value FROM installation WHERE key = 'data_key'")
    return rows[0]["value"] if rows else None


async def forget_canary(engine: AsyncEngine) -> None:
    """The installation as a version left it that knew of no canary."""
    await execute(engine, "DELETE FROM installation WHERE key = 'data_key'")


async def sold(settings: Settings, *seats: str) -> list[str]:
    async with open_parts(settings) as parts:
        shop = Installation(parts, settings)
        await shop.open_event("gig")
        return [await shop.book("gig", seat) for seat in seats]


async def reseal(engine: AsyncEngine, booking_id: str, sealer: AesSealer) -> None:
    sealed = sealer.seal(BookingDetails(notes="aisle"), BookingId(booking_id))
    await execute(engine, "UPDATE bookings SET sealed = $1 WHERE id = $2", sealed, uuid_of(booking_id))


def uuid_of(booking_id: str) -> Any:
    claim = parse_claim_id(booking_id)
    assert claim is not None
    return claim.uuid


# Processes


async def test_another_data_key_is_refused_by_whatever_seals_or_opens(settings: Settings) -> None:
    await sold(settings, "A-1")
    configured = msgspec.structs.replace(settings, data_key=OTHER)
    kept = msgspec.structs.replace(settings, data_key=None)

    for foreign, named in ((configured, "HOLDFAST_DATA_KEY: "), (kept, f"{settings.data_dir}/data-key (HOLDFAST_DA")):
        for opened in (open_services(foreign), open_reconciler(foreign)):
            with pytest.raises(SettingsError) as refusal:
                async with opened:
                    pass
            assert str(refusal.value).startswith(named)
            assert "not the data key of this installation" in str(refusal.value)
            assert "HOLDFAST_DATA_KEY_FILE" in str(refusal.value)
            assert encoded(OTHER) not in str(refusal.value)


async def test_commands_and_serve_with_another_data_key_end_and_say_so(
    settings: Settings, cli: WarmCommandLine
) -> None:
    await sold(settings, "A-1")

    for command in ("reconcile --once", "reconcile", "dead-letters list", "audit"):
        done = await asyncio.to_thread(cli.run, *command.split())
        assert done.returncode != 0, command
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(f"Error: {settings.data_dir}/data-key (HOLDFAST_DATA_KEY is not set): ")

    serving = CommandLine(HOLDFAST_WORKERS="1", **{name: cli.environment[name] for name in SERVERS})
    done = await asyncio.to_thread(serving.run, "serve", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not the data key of this installation" in done.stderr


async def test_doctor_fails_another_data_key_with_and_without_a_canary(
    settings: Settings, cli: WarmCommandLine, engine: AsyncEngine
) -> None:
    async def verdicts(key: bytes) -> dict[str, Any]:
        done = await asyncio.to_thread(cli.run, "doctor", "--json", HOLDFAST_DATA_KEY=encoded(key))
        findings = msgspec.json.decode(done.stdout)["findings"]
        return next(each for each in findings if each["subject"] == "data key")

    assert (await verdicts(OTHER))["verdict"] == "ok"  # nothing is sealed yet, and doctor settles nothing
    assert await canary(engine) is None
    await sold(settings, "A-1")
    for _ in range(2):
        assert (await verdicts(KEY))["verdict"] == "ok"
        wrong = await verdicts(OTHER)
        assert wrong["verdict"] == "failure"
        assert "HOLDFAST_DATA_KEY" in wrong["detail"]
        assert "HOLDFAST_DATA_DIR" in wrong["remedy"]
        await forget_canary(engine)
    assert await canary(engine) is None


# The canary


async def test_first_process_writes_the_canary_and_later_ones_write_nothing(engine: AsyncEngine) -> None:
    await ensure_partitions(engine, 4)
    await require_data_key(engine, OURS)
    written = await canary(engine)
    assert written is not None
    (database,) = await execute(engine, "SELECT current_database() AS name")
    await execute(engine, f'ALTER DATABASE "{database["name"]}" SET default_transaction_read_only = on')
    await engine.dispose()  # the next connection may read and no more

    assert await ensure_partitions(engine, None) == 4
    await require_data_key(engine, OURS)
    assert await canary(engine) == written
    with pytest.raises(DataKeyDiffers):
        await require_data_key(engine, THEIRS)


async def test_of_two_that_start_at_once_one_has_its_key_and_the_other_is_refused(engine: AsyncEngine) -> None:
    for _ in range(5):
        await forget_canary(engine)
        starts = (require_data_key(engine, sealer) for sealer in (OURS, THEIRS, OURS, THEIRS))
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        kinds = [type(outcome) for outcome in outcomes]
        assert sorted(map(str, kinds)) == sorted(map(str, [type(None)] * 2 + [DataKeyDiffers] * 2))
        assert kinds[:2] == kinds[2:]


async def test_keys_are_rotated_while_processes_start_and_stop(engine: AsyncEngine) -> None:
    learns, changes, after = AesSealer([KEY, OTHER]), AesSealer([OTHER, KEY]), THEIRS
    for sealer in (OURS, learns, OURS, learns, changes, learns, changes):  # those that start again have what they had
        await require_data_key(engine, sealer)

    seen = await canary(engine)
    for sealer in (after, changes, after):
        await require_data_key(engine, sealer)
    assert await canary(engine) == seen
    with pytest.raises(DataKeyDiffers):
        await require_data_key(engine, OURS)


async def test_two_that_seal_the_canary_anew_at_once_both_start(engine: AsyncEngine) -> None:
    await require_data_key(engine, OURS)
    changes = AesSealer([OTHER, KEY])
    await asyncio.gather(*(require_data_key(engine, changes) for _ in range(4)))
    await require_data_key(engine, THEIRS)


async def test_canary_that_was_changed_opens_for_nobody(engine: AsyncEngine) -> None:
    await require_data_key(engine, OURS)
    for value in ("", "no base64", base64.b64encode(OURS.seal_text("another word", b"elsewhere")).decode()):
        await execute(engine, "UPDATE installation SET value = $1 WHERE key = 'data_key'", value)
        for check in (require_data_key, compare_data_key):
            with pytest.raises(DataKeyDiffers):
                await check(engine, OURS)


async def test_a_person_can_say_that_the_key_is_lost(settings: Settings, engine: AsyncEngine) -> None:
    await sold(settings, "A-1")
    said = (
        "INSERT INTO installation (key, value) VALUES ('data_key', 'renew')"
        " ON CONFLICT (key) DO UPDATE SET value = 'renew'"
    )
    documented = Path(__file__).parents[2].joinpath("docs/operations.md").read_text("utf-8")
    assert said in " ".join(documented.split())
    await execute(engine, said)
    await compare_data_key(engine, THEIRS)
    assert await canary(engine) == RENEW

    await require_data_key(engine, THEIRS)
    with pytest.raises(DataKeyDiffers):
        await require_data_key(engine, OURS)


# An installation of before there were canaries


async def test_first_process_after_the_upgrade_fixes_no_wrong_key(settings: Settings, engine: AsyncEngine) -> None:
    await sold(settings, "A-1", "A-2")
    await forget_canary(engine)

    with pytest.raises(DataKeyDiffers, match="none of the newest 2"):
        await require_data_key(engine, THEIRS)
    assert await canary(engine) is None
    await require_data_key(engine, OURS)
    assert await canary(engine) is not None


async def test_a_webhook_alone_tells_the_wrong_key_after_the_upgrade(settings: Settings, engine: AsyncEngine) -> None:
    async with open_parts(settings) as parts:
        await parts.sinks.add("shop", "https://example.org/hook")
    await forget_canary(engine)

    with pytest.raises(DataKeyDiffers, match="none of the newest 1"):
        await require_data_key(engine, THEIRS)
    await require_data_key(engine, OURS)


async def test_nothing_sealed_speaks_against_any_key_after_the_upgrade(engine: AsyncEngine) -> None:
    await ensure_partitions(engine, 4)
    await require_data_key(engine, THEIRS)
    with pytest.raises(DataKeyDiffers):
        await require_data_key(engine, OURS)


async def test_some_bookings_of_another_key_are_told_of_and_keep_nobody_out(
    settings: Settings, engine: AsyncEngine, logged: list[Any]
) -> None:
    _, newest = await sold(settings, "A-1", "A-2")
    await reseal(engine, newest, THEIRS)
    await forget_canary(engine)

    await require_data_key(engine, OURS)
    (line,) = [each for each in logged if each["log_level"] == "warning"]
    assert (line["opened"], line["of"]) == (1, 2)


# A booking of another key


async def test_booking_whose_details_cannot_be_opened_is_shown_without_them_and_told_of_once(
    settings: Settings, engine: AsyncEngine, logged: list[Any]
) -> None:
    readable, lost = await sold(settings, "A-1", "A-2")
    await reseal(engine, readable, OURS)
    await reseal(engine, lost, THEIRS)

    async with open_parts(settings) as parts:
        for _ in range(2):
            page = await parts.bookings.list_bookings(BookingFilter(event_id="gig"), limit=10)
            assert [(each.id, each.notes) for each in page.items] == [(lost, None), (readable, "aisle")]
            alone = await parts.bookings.find_booking(BookingId(lost))
            assert alone is not None
            assert (alone.guest, alone.attendees, alone.notes, alone.metadata) == (None, [], None, {})
            assert (alone.status, alone.amount) == ("confirmed", 9000)
    told = [each for each in logged if each["log_level"] == "error"]
    assert [(each["booking_id"], "key that is not here" in each["reason"]) for each in told] == [(lost, True)]
