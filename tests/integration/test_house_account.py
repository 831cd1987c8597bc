"""A whole sale as the Redis user of docs/operations.md, who may do no more than that page says."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import redis

import lua
from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.definition import EventDefinition
from engine.once import ONCE_TTL_MS, Once, OnceStore
from holdfast.compose import Parts, open_parts
from holdfast.inspection import SIZE_COMMANDS
from holdfast.migrating import migrate_database
from holdfast.settings import Settings, load_settings
from persistence.repair import repair_events

ROOT = Path(__file__).parents[2]
ONLY_IN_A_CLUSTER = {"asking"}
# Sent by redis-py when it connects, by the transport's ask(), and EVALSHA, which is packed by hand.
OF_EVERY_CONNECTION = {"client|setname", "client|setinfo", "select", "info", "evalsha"}
EVENT = {
    "id": "concert-42",
    "name": "An evening of quartets",
    "starts_at": "2037-05-01T19:00:00Z",
    "currency": "EUR",
    "sections": [
        {"id": "floor", "price": 4500, "capacity": 500},
        {"id": "stalls", "price": 9000, "rows": [{"id": "A", "seats": "1-20", "aisles_after": ["10"]}]},
    ],
}


def documented_rule() -> list[str]:
    """The rule of the page, as words."""
    block = re.search(r"```acl\n(.*?)```", (ROOT / "docs/operations.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    return block[1].split()


@pytest.fixture
def admin(redis_url: str) -> Iterator[redis.Redis]:
    """The server's own account, and the documented one made by it."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.execute_command(*documented_rule())
        client.acl_log_reset()
        yield client
        client.acl_deluser("holdfast")


@pytest.fixture
async def settings(redis_url: str, fresh_database: Callable[..., str], admin: redis.Redis, tmp_path: Path) -> Settings:
    """Settings whose Redis URL is the documented account's."""
    assert admin.acl_getuser("holdfast") is not None
    account = f"unix://holdfast:choose-a-password@{urlsplit(redis_url).path}"
    found = load_settings(
        {"HOME": str(tmp_path), "REDIS_URL": account, "DATABASE_URL": fresh_database()}, data_dir=tmp_path
    )
    await migrate_database(found)
    return found


async def sell(parts: Parts) -> None:
    """Everything that a script or a command is there for, but what only a cluster has."""
    event = await parts.events.create(msgspec.convert(EVENT, EventDefinition), organizer_id="olga")
    event = await parts.events.transition(event.id, "open")
    await parts.reservations.publish(event)
    seats = msgspec.convert({"items": [{"section": "stalls", "seats": ["A-1", "A-2"]}]}, ClaimRequest)
    best = msgspec.convert(
        {"items": [{"section": "stalls", "best": 3}, {"section": "floor", "quantity": 2}]}, ClaimRequest
    )
    one = parts.reservations
    held = (await one.hold(event.id, seats, customer_id="ana", once=Once(b"scope-1", b"body"))).hold
    other = (await one.hold(event.id, best, customer_id="ben")).hold
    await one.extend(other.id, ttl_s=300, customer_id="ben")
    await one.find_hold(other.id, customer_id="ben")
    await one.release(other.id, customer_id="ben")
    booked = await one.confirm(held.id, BookingDetails(), customer_id="ana", once=Once(b"scope-2", b"body"))
    assert booked.booking.status == "confirmed"
    await one.book(event.id, best, BookingDetails(), customer_id="cy")
    await one.seats(event.id)
    await parts.drainer.drain_all()
    for script in lua.names():
        (known,) = await parts.kernel.transport.command("SCRIPT", "EXISTS", lua.load(script).sha)
        assert known in (0, 1)
    async for repaired in repair_events(parts.kernel, parts.bookings, parts.catalog, parts.loader, [event.id]):
        assert repaired.found == ()
    store, once = OnceStore(parts.kernel), Once(b"scope-3", b"body")
    assert await store.begin(once, in_flight_ttl_s=60) is None
    await store.finish(once, b"answer")
    await store.abandon(once)


async def test_the_documented_account_can_sell_and_is_refused_nothing(settings: Settings, admin: redis.Redis) -> None:
    async with open_parts(settings) as parts:
        await sell(parts)

    assert admin.acl_log() == []


async def test_no_key_but_an_idempotency_record_ever_expires(settings: Settings, admin: redis.Redis) -> None:
    async with open_parts(settings) as parts:
        await sell(parts)

    lifetimes_ms = {key: admin.pttl(key) for key in admin.scan_iter()}
    once = {key: ttl_ms for key, ttl_ms in lifetimes_ms.items() if ":once:" in key}
    assert len(once) == 2
    assert all(0 < ttl_ms <= ONCE_TTL_MS for ttl_ms in once.values())
    assert {ttl_ms for key, ttl_ms in lifetimes_ms.items() if key not in once} == {-1}


async def test_the_layouts_digest_keeps_the_state_a_hash_table(settings: Settings, admin: redis.Redis) -> None:
    async with open_parts(settings) as parts:
        await sell(parts)

    (state,) = admin.keys("hf:{*}:concert-42:state")
    assert len(admin.hget(state, "layout")) == 71
    assert admin.object("encoding", state) == "hashtable"
    admin.hset("shorter", mapping=admin.hgetall(state) | {"layout": "x" * 64})
    assert admin.object("encoding", "shorter") == "listpack"


def commands_of_the_code() -> set[str]:
    """What scripts and transport are seen to send, as an ACL calls it."""
    sent: set[str] = set()
    for name in lua.names():
        calls = re.findall(r"redis\.call\('([A-Z_]+)'(?:, '([A-Z]+)')?", lua.load(name).source.decode())
        sent.update(f"{verb}|{other}" if verb in ("MEMORY", "XINFO") else verb for verb, other in calls)
    for package in ("engine", "persistence", "api", "holdfast"):
        for file in (ROOT / package).rglob("*.py"):
            for verb, other in re.findall(
                r'ommand\(\s*(?:[\w.]+, )?"([A-Z]+)"(?:, "([A-Z]+)")?', file.read_text("utf-8")
            ):
                sent.add(f"{verb}|{other}" if verb in ("SCRIPT", "ACL", "CONFIG", "XINFO") else verb)
    sent.update(SIZE_COMMANDS.values())
    return {command.lower() for command in sent} - ONLY_IN_A_CLUSTER


def test_the_documented_account_has_exactly_the_commands_of_the_code() -> None:
    granted = {word[1:] for word in documented_rule() if word.startswith("+")}

    assert granted == commands_of_the_code() | OF_EVERY_CONNECTION
