"""Publishing in a whole installation: the reconciler's duty, lapsed holds, health, figures, and the command."""

import asyncio
import datetime as dt
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import CommandLine
from life_world import until_so
from publishing import until
from receiver import OK, Receiver, receiving
from reconciling import Installation, reconciling

from api.services import Impaired
from engine.backlog import BacklogWatch
from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.lifecycle import Actor
from holdfast.compose import open_parts
from holdfast.readiness import readiness_checks
from holdfast.settings import Settings, load_settings
from persistence.booking_desk import Order
from persistence.publishing.event_types import ALL_OF_BOOKINGS
from persistence.publishing.letters import outbox_state

OLD = "UPDATE outbox SET created_at = now() - interval '1 hour'"
DEAD = "UPDATE deliveries SET dead_at = now(), attempts = 9, error = 'status 503'"


@pytest.fixture
def settings(servers: Any, redis_url: str, migrated_database: str, tmp_path: Path) -> Iterator[Settings]:
    with servers.database(migrated_database) as url:
        yield load_settings(
            {
                "REDIS_URL": redis_url,
                "DATABASE_URL": url,
                "HOLDFAST_DATA_DIR": str(tmp_path),
                "HOLDFAST_PARTITIONS": "4",
                "HOLDFAST_STREAM": "hf:events",
                "HOLDFAST_WEBHOOKS_ALLOW_PRIVATE": "on",
            }
        )


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Installation]:
    async with open_parts(settings) as parts:
        yield Installation(parts, settings)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
def cli(settings: Settings) -> CommandLine:
    assert settings.redis_url is not None
    assert settings.database_url is not None
    return CommandLine(
        REDIS_URL=settings.redis_url,
        DATABASE_URL=settings.database_url,
        HOLDFAST_DATA_DIR=settings.data_dir,
        HOLDFAST_WEBHOOKS_ALLOW_PRIVATE="on",
    )


pytest_plugins = ("ledger_fixtures",)


async def test_booking_is_told_to_webhook_and_stream_by_the_reconciler(
    shop: Installation, settings: Settings, receiver: Receiver
) -> None:
    sink = await shop.parts.sinks.add("shop", receiver.url)
    await shop.open_event("gig")
    async with reconciling(settings) as reconciler:
        booking_id = await shop.book("gig")
        await until(lambda: len(receiver.taken) == 2)
        await until(lambda: shop.redis.exists("hf:events") and shop.redis.xlen("hf:events") == 2)
        await until(lambda: reconciler.figures.done.get("publish") == 2)  # counted when the round is over

    created, confirmed = receiver.taken
    assert (created.event["type"], confirmed.event["type"]) == ("booking.created", "booking.confirmed")
    assert all(one.is_signed_with(sink.secrets[0]) for one in receiver.taken)
    data = confirmed.event["data"]
    assert (data["booking_id"], data["event_id"], data["status"]) == (booking_id, "gig", "confirmed")
    assert (data["customer_id"], data["amount"], data["currency"]) == ("ben", 9000, "EUR")
    assert data["reference"].startswith("HF-")
    entries = [json.loads(fields[b"data"])["id"] for _, fields in shop.redis.xrange("hf:events")]
    assert entries == [created.id, confirmed.id]


async def test_what_is_sent_has_the_members_that_the_document_shows(
    shop: Installation, settings: Settings, receiver: Receiver, cli: CommandLine
) -> None:
    """And the sample that `webhooks test` sends: receivers are written after either."""
    await shop.parts.sinks.add("shop", receiver.url)
    event = await shop.open_event("concert-42")
    claim = ClaimRequest([ItemRequest("floor", quantity=2)])
    booked = await shop.parts.reservations.book("concert-42", claim, BookingDetails(), customer_id="ana")
    order = Order(admit=lambda _: Actor("ana", "customer"))
    now = dt.datetime.now(dt.UTC)
    await shop.parts.desk.cancel(booked.booking.id, order, event=event.definition, reason="ill", now=now)
    async with reconciling(settings):
        await until(lambda: len(receiver.taken) == 3)
    await _noted(cli, "test", "shop")

    created, confirmed, cancelled, sample = (one.event for one in receiver.taken)
    document = (Path(__file__).parents[2] / "docs/webhooks.md").read_text("utf-8")
    shown = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", document, re.MULTILINE | re.DOTALL)]
    assert [_shape(event) for event in shown] == [_shape(confirmed), _shape(cancelled)]
    assert [event["type"] for event in shown] == ["booking.confirmed", "booking.cancelled"]
    assert _shape(created) == _shape(confirmed)
    assert _shape(sample) == _shape(confirmed)


def _shape(value: Any) -> Any:
    """The members of JSON and their types, without what they say."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shape(member) for member in value]
    return type(value)


async def test_lapsed_hold_is_told_once_and_only_to_who_asked(
    shop: Installation, settings: Settings, receiver: Receiver
) -> None:
    async with receiving() as other:
        await shop.parts.sinks.add("all-bookings", other.url)
        await shop.open_event("gig")
        async with reconciling(settings):
            await until(lambda: any(shop.redis.exists(f"hf:{{{p}}}:trail") for p in range(4)))
            await shop.hold("gig", ttl_s=1)
            for _ in range(100):
                if await shop.postgres("SELECT FROM hold_history WHERE outcome = 'expired'"):
                    break
                await asyncio.sleep(0.1)
            assert await shop.postgres("SELECT FROM outbox") == []

            await shop.parts.sinks.add("holds", receiver.url, types=["hold.expired"])
            hold_id = await shop.hold("gig", ttl_s=1)
            await until(lambda: receiver.taken, within_s=15)
    (told,) = receiver.taken
    assert (told.event["type"], told.event["subject"]) == ("hold.expired", hold_id)
    assert told.event["data"]["customer_id"] == "ana"
    assert told.event["data"]["places"] == "0:1;0*2"
    assert "reference" not in told.event["data"]
    assert other.received == []


async def test_health_degrades_when_a_sink_is_far_behind_or_something_was_given_up(
    shop: Installation, settings: Settings
) -> None:
    await shop.parts.sinks.add("shop", "https://shop.example/hooks")
    check = readiness_checks(
        shop.parts.front, shop.parts.database, shop.parts.oversight, BacklogWatch(shop.parts.front)
    )["outbox"]
    assert check.severity == "degraded"
    await check.run()

    await shop.open_event("gig")
    await shop.book("gig")
    await shop.postgres(OLD)
    assert (await outbox_state(shop.parts.database)).oldest_s > 3_000
    with pytest.raises(Impaired, match="waiting, the oldest for 36"):
        await check.run()

    await shop.postgres(
        "INSERT INTO deliveries (sink_id, outbox_id, booking_id, queued_at, due_at)"
        " SELECT sinks.id, outbox.id, booking_id, now(), now() FROM outbox, sinks"
    )
    await shop.postgres("UPDATE outbox SET published_at = now()")
    await shop.postgres(DEAD)
    with pytest.raises(Impaired, match="2 deliveries given up"):
        await check.run()
    overview = await shop.parts.oversight.overview()
    assert overview.outbox.dead == 2

    await shop.parts.sinks.disable("shop", "by hand")
    await check.run()


@pytest.mark.slow
async def test_command_adds_tests_lists_rotates_and_removes(
    shop: Installation, cli: CommandLine, receiver: Receiver
) -> None:
    added = json.loads(await _noted(cli, "add", "shop", receiver.url, "--type", "booking.*", "--json"))
    assert added["name"] == "shop"
    taken_twice = await asyncio.to_thread(cli.run, "webhooks", "add", "shop", receiver.url)
    assert (taken_twice.returncode, "there is a webhook 'shop' already" in taken_twice.stderr) == (1, True)

    answered = await _noted(cli, "test", "shop")
    assert "status 200, taken" in answered
    assert receiver.taken[0].is_signed_with(added["secret"])
    assert receiver.taken[0].event["type"] == "booking.confirmed"
    receiver.answer = lambda _: (500, {})
    refused = await asyncio.to_thread(cli.run, "webhooks", "test", receiver.url, "--json")
    assert (refused.returncode, json.loads(refused.stdout)["status"]) == (2, 500)

    rotated = await asyncio.to_thread(cli.json, "webhooks", "rotate", "shop")
    assert rotated["secret"] != added["secret"]
    (listed,) = await asyncio.to_thread(cli.json, "webhooks", "list")
    assert (listed["name"], listed["secrets"], listed["types"]) == ("shop", 2, ["booking.*"])
    assert added["secret"] not in json.dumps(listed)
    assert "two secrets" in await asyncio.to_thread(cli.ok, "webhooks", "list")
    finished = await asyncio.to_thread(cli.ok, "webhooks", "rotate", "shop", "--finish")
    assert finished == "requests to shop are signed with the new secret alone\n"
    assert await asyncio.to_thread(cli.ok, "webhooks", "disable", "shop") == "shop is disabled\n"
    assert "disabled: by hand" in await asyncio.to_thread(cli.ok, "webhooks", "list")
    assert await asyncio.to_thread(cli.ok, "webhooks", "enable", "shop") == "shop is at work\n"
    assert await asyncio.to_thread(cli.ok, "webhooks", "remove", "shop") == "shop is removed\n"
    gone = await asyncio.to_thread(cli.run, "webhooks", "test", "shop")
    assert (gone.returncode, "there is no webhook 'shop'" in gone.stderr) == (1, True)


async def test_command_says_why_the_stream_of_the_settings_is_neither_tested_nor_removed(
    shop: Installation, cli: CommandLine
) -> None:
    missing = await asyncio.to_thread(cli.run, "webhooks", "test", "stream")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (1, "", 1)
    assert "there is no stream: no process with HOLDFAST_STREAM has begun to publish here" in missing.stderr

    await shop.parts.sinks.ensure_stream("hf:events", ALL_OF_BOOKINGS)
    untested = await asyncio.to_thread(cli.run, "webhooks", "test", "stream")
    assert (untested.returncode, untested.stdout) == (2, "")
    assert "'stream' is the Redis stream that HOLDFAST_STREAM names (hf:events): " in untested.stderr
    assert "`redis-cli XRANGE hf:events - +`" in untested.stderr
    kept = await asyncio.to_thread(cli.run, "webhooks", "remove", "stream")
    assert (kept.returncode, "unset that, or `holdfast webhooks disable stream`" in kept.stderr) == (1, True)


async def test_command_says_in_json_what_has_become_of_a_sink(shop: Installation, cli: CommandLine) -> None:
    await shop.parts.sinks.add("shop", "https://shop.example/hooks")
    new = (await shop.parts.sinks.rotate("shop")).secrets[0]
    finished = await asyncio.to_thread(cli.json, "webhooks", "rotate", "shop", "--finish")
    assert finished == {"name": "shop", "secret": new}
    for verb, state in (("disable", "disabled"), ("enable", "at work"), ("remove", "removed")):
        assert await asyncio.to_thread(cli.json, "webhooks", verb, "shop") == {"name": "shop", "state": state}


@pytest.mark.slow
async def test_command_names_a_sink_whose_key_is_lost_and_gives_it_another_secret(
    shop: Installation, cli: CommandLine, receiver: Receiver
) -> None:
    await shop.parts.sinks.add("shop", receiver.url)
    await shop.postgres("UPDATE sinks SET secrets = sha256('sealed with another key') WHERE name = 'shop'")

    listed = await asyncio.to_thread(cli.json, "webhooks", "list")
    assert "a key that is not here" in next(sink["lost"] for sink in listed if sink["name"] == "shop")
    assert "told nothing: " in await asyncio.to_thread(cli.ok, "webhooks", "list")
    refused = await asyncio.to_thread(cli.run, "webhooks", "test", "shop")
    assert (refused.returncode, "webhooks rotate shop" in refused.stderr) == (2, True)
    cron = await asyncio.to_thread(cli.run, "reconcile", "--once", "--json")
    assert (cron.returncode, list(json.loads(cron.stdout)["held_up"])) == (2, ["webhook shop"])

    rotated = await asyncio.to_thread(cli.json, "webhooks", "rotate", "shop")
    await _noted(cli, "test", "shop")
    assert receiver.taken[0].is_signed_with(rotated["secret"])


async def test_command_says_of_a_private_target_who_needs_the_setting_and_why_nothing_comes(
    shop: Installation, settings: Settings, cli: CommandLine, receiver: Receiver
) -> None:
    assert (await _noted(cli, "add", "shop", receiver.url)).startswith("whsec_")
    assert json.loads(await _noted(cli, "test", "shop", "--json"))["outcome"] == "delivered"

    await shop.open_event("gig")
    await shop.book("gig")
    async with reconciling(msgspec.structs.replace(settings, webhooks_allow_private=False)):
        failed = "SELECT FROM deliveries WHERE error IS NOT NULL"
        await until_so(lambda: shop.postgres(failed), within_s=10)

    listed = await asyncio.to_thread(cli.json, "webhooks", "list")
    sink = next(sink for sink in listed if sink["name"] == "shop")
    assert (sink["waiting"], sink["attempts"]) == (2, 1)
    assert "HOLDFAST_WEBHOOKS_ALLOW_PRIVATE=on" in sink["last_error"]
    in_words = " ".join((await asyncio.to_thread(cli.ok, "webhooks", "list")).split())
    assert "at work; failing: target refused" in in_words


async def _noted(cli: CommandLine, *arguments: str) -> str:
    """What a command prints that goes well, and notes that a private target needs more than its own environment."""
    done = await asyncio.to_thread(cli.run, "webhooks", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done
    assert "`serve` and `reconcile`, which deliver, need that setting too" in done.stderr
    return done.stdout


async def test_command_refuses_a_private_target_unless_allowed(shop: Installation, cli: CommandLine) -> None:
    cli.environment["HOLDFAST_WEBHOOKS_ALLOW_PRIVATE"] = "off"
    for url in ("http://shop.example/", "https://127.0.0.1/"):
        refused = await asyncio.to_thread(cli.run, "webhooks", "add", "shop", url)
        assert (refused.returncode, "HOLDFAST_WEBHOOKS_ALLOW_PRIVATE=on" in refused.stderr) == (1, True)


async def test_command_replays_and_retries_dead_letters(
    shop: Installation, cli: CommandLine, receiver: Receiver, settings: Settings
) -> None:
    nobody = await asyncio.to_thread(cli.ok, "webhooks", "replay")
    assert nobody == "no sink is at work: nothing was queued again\n"
    await shop.parts.sinks.add("shop", receiver.url)
    await shop.open_event("gig")
    booking_id = await shop.book("gig")
    async with reconciling(settings):
        await until(lambda: len(receiver.taken) == 2)
    replayed = await asyncio.to_thread(cli.json, "webhooks", "replay", "shop", "--booking", booking_id)
    assert replayed == {"sinks": {"shop": 2}}
    one = await asyncio.to_thread(
        cli.json, "webhooks", "replay", "shop", "--type", "booking.confirmed", "--from", "2026-01-01"
    )
    assert one == {"sinks": {"shop": 1}}

    await shop.postgres(DEAD)
    dead = await asyncio.to_thread(cli.json, "webhooks", "dead", "shop")
    assert [(letter["type"], letter["attempts"]) for letter in dead] == [
        ("booking.created", 9),
        ("booking.confirmed", 9),
    ]
    assert "status 503" in await asyncio.to_thread(cli.ok, "webhooks", "dead")
    assert await asyncio.to_thread(cli.json, "webhooks", "retry", "shop", str(dead[0]["id"])) == {"sinks": {"shop": 1}}
    assert "1 tried again" in await asyncio.to_thread(cli.ok, "webhooks", "retry", "shop", "--all")

    receiver.taken.clear()
    receiver.answer = lambda _: OK
    cron = await asyncio.to_thread(cli.run, "reconcile", "--once", "--json")
    assert msgspec.json.decode(cron.stdout)["verdict"] in ("clean", "repaired")
    assert [one.event["type"] for one in receiver.taken] == ["booking.created", "booking.confirmed"]
