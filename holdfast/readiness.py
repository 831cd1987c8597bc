"""What ``/readyz`` looks at, and which of it is worth taking a process out of service.

``unready`` is only what holds cannot do without: Redis, scripts, and a schema and partitions that are this version's.
Everything else degrades: taking processes out of service would help nobody, and a person should look.
"""

import asyncio
from collections.abc import Mapping

import sqlalchemy as sa
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

import lua
from api.services import Impaired, ReadinessCheck
from engine.backlog import Backlog, BacklogWatch
from engine.errors import LedgerUnavailable, StoreUnavailable
from engine.kernel import Kernel
from engine.time_limits import give_up_after
from engine.transport.errors import TransportError
from engine.transport.servers import NodeAddress
from holdfast.counted import counted
from persistence.database import fetch_rows
from persistence.installation import require_partitions
from persistence.oversight import RECONCILER_LIVE_S, Oversight
from persistence.publishing.letters import outbox_state
from persistence.revision import HEAD, current_revision

OUTBOX_OLD_S = 900.0  # a receiver that is deployed anew is back by then
JOURNAL_OLD_S = 60.0  # a drained journal is never older than some twenty seconds
NODE_WAIT_S = 0.8  # for one server's sign of life
POSTGRES_WAIT_S = 1.5  # less than the checks' own limit: that Postgres is silent must not pass for a wrong schema


class NotMigrated(Exception):
    """The database's schema is not the one this version needs."""


def readiness_checks(
    kernel: Kernel, database: AsyncEngine, oversight: Oversight, backlog: BacklogWatch
) -> Mapping[str, ReadinessCheck]:
    """All checks by name; those of Redis first."""

    async def redis() -> None:
        await _ask_servers(kernel)

    async def scripts() -> None:
        await _load_scripts(kernel)

    async def postgres() -> None:
        await fetch_rows(database, sa.select(sa.literal(1)))

    async def migrations() -> None:
        try:
            await give_up_after(POSTGRES_WAIT_S, _require_schema(database, kernel.partitions))
        except (LedgerUnavailable, TimeoutError):
            raise Impaired("Postgres does not answer: not looked at") from None

    async def reconciler() -> None:
        if not any(seen.live for seen in await oversight.reconcilers()):
            raise Impaired(f"no reconciler has been seen for {RECONCILER_LIVE_S:.0f} s")

    async def journal() -> None:
        waiting = await _backlog(backlog)
        if waiting.oldest_age_s is not None and waiting.oldest_age_s > JOURNAL_OLD_S:
            bookings = counted(waiting.entries, "booking")
            raise Impaired(f"{bookings} waiting for Postgres, the oldest for {waiting.oldest_age_s:.0f} s")

    async def dead_letters() -> None:
        if count := (await _backlog(backlog)).dead_letters:
            entries = counted(count, "journal entry", "journal entries")
            raise Impaired(f"{entries} that cannot be written, waiting for a person")

    async def outbox() -> None:
        try:
            state = await outbox_state(database)
        except LedgerUnavailable:
            raise Impaired("Postgres does not answer: not looked at") from None
        if state.oldest_s > OUTBOX_OLD_S:
            deliveries = counted(state.waiting, "delivery", "deliveries")
            raise Impaired(f"{deliveries} waiting, the oldest for {state.oldest_s:.0f} s: a sink is away")
        if state.dead:
            raise Impaired(f"{counted(state.dead, 'delivery', 'deliveries')} given up, waiting for a person")

    return {
        "redis": ReadinessCheck(redis, "unready"),
        "scripts": ReadinessCheck(scripts, "unready"),
        "migrations": ReadinessCheck(migrations, "unready"),
        "postgres": ReadinessCheck(postgres, "degraded"),
        "reconciler": ReadinessCheck(reconciler, "degraded"),
        "journal": ReadinessCheck(journal, "degraded"),
        "dead_letters": ReadinessCheck(dead_letters, "degraded"),
        "outbox": ReadinessCheck(outbox, "degraded"),
    }


async def _require_schema(database: AsyncEngine, partitions: int) -> None:
    if await current_revision(database) != HEAD:
        raise NotMigrated("the database is not at this version's revision")
    await require_partitions(database, partitions)


async def _ask_servers(kernel: Kernel) -> None:
    """Ask every server for a sign of life.

    Raises:
        StoreUnavailable: None gives one.
        Impaired: Some do, of a cluster: the others' events cannot be sold.
    """
    nodes = kernel.transport.nodes()
    answers = await asyncio.gather(*[_answers(kernel, node) for node in nodes])
    if not any(answers):
        raise StoreUnavailable("no server answers")
    if not all(answers):
        raise Impaired(f"{answers.count(False)} of {len(nodes)} Redis servers do not answer")


async def _answers(kernel: Kernel, node: NodeAddress) -> bool:
    try:
        async with asyncio.timeout(NODE_WAIT_S):
            await kernel.transport.command("TIME", node=node)
    except (TransportError, RedisError, TimeoutError):
        return False
    return True


async def _load_scripts(kernel: Kernel) -> None:
    """Have every server know every script, so that the first call of one does not pay for it."""
    scripts = [lua.load(name) for name in lua.names()]
    try:
        async with asyncio.timeout(NODE_WAIT_S):
            for node in kernel.transport.nodes():
                known = await kernel.transport.command("SCRIPT", "EXISTS", *[s.sha for s in scripts], node=node)
                for script in (script for script, is_known in zip(scripts, known, strict=True) if not is_known):
                    await kernel.transport.command("SCRIPT", "LOAD", script.source, node=node)
    except (TransportError, TimeoutError):
        raise Impaired("a Redis server does not answer: not looked at") from None


async def _backlog(watch: BacklogWatch) -> Backlog:
    try:
        return await watch.read()
    except StoreUnavailable:
        raise Impaired("Redis does not answer: not looked at") from None
