"""What Holdfast needs of its Postgres, looked at by ``holdfast doctor``."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.store_checks import Finding
from persistence.database import driver_connection, fetch_rows, ledger_errors
from persistence.heartbeats import ALIVE_WITHIN_S, read_heartbeats
from persistence.installation import PARTITIONS_DEFAULT
from persistence.revision import HEAD, current_revision
from persistence.schema import installation

FLOOR = 13  # the oldest version that Postgres's own project still repaired when this was written
POOL_SIZE = 8  # connections of one API process, as open_database makes them
_SETTINGS = ("server_version_num", "fsync", "full_page_writes", "synchronous_commit", "max_connections")


async def examine_database(engine: AsyncEngine, *, workers: int, partitions: int | None) -> list[Finding]:
    """Version, durability, connections, schema and partitions; *partitions* is what the settings ask for.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    async with driver_connection(engine) as connection:
        with ledger_errors():
            rows = await connection.fetch(
                "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", list(_SETTINGS)
            )
            in_use = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL")
    setting = {row["name"]: row["setting"] for row in rows}
    findings = [
        _version(int(setting["server_version_num"])),
        _durability(setting),
        _connections(int(setting["max_connections"]), int(in_use), workers * POOL_SIZE),
    ]
    migrations = await _migrations(engine)
    findings.append(migrations)
    if migrations.verdict == "ok":
        findings += [await _partitions(engine, partitions), await _reconcilers(engine)]
    return findings


def _version(number: int) -> Finding:
    detail = f"Postgres {number // 10_000}.{number % 10_000}"
    if number // 10_000 < FLOOR:
        return Finding("version of Postgres", "failure", detail, f"Use Postgres {FLOOR} or newer")
    return Finding("version of Postgres", "ok", detail)


def _durability(setting: dict[str, str]) -> Finding:
    subject = "durability of Postgres"
    wrong = [name for name in ("fsync", "full_page_writes") if setting[name] != "on"]
    if wrong:
        remedy = f"Set {' and '.join(wrong)} to on: without, a power failure loses bookings that were acknowledged"
        return Finding(subject, "failure", f"{', '.join(wrong)} off", remedy)
    if setting["synchronous_commit"] not in ("on", "remote_apply"):
        detail = f"synchronous_commit is {setting['synchronous_commit']} although we set it"
        return Finding(subject, "failure", detail, "Let no pooler drop the settings of a session")
    return Finding(subject, "ok", "fsync, full_page_writes and synchronous_commit are on")


def _connections(limit: int, in_use: int, needed: int) -> Finding:
    detail = f"{in_use} of {limit} in use; the workers of this machine take up to {needed}"
    if needed + 10 > limit:
        remedy = "Raise max_connections, run fewer workers, or put a pooler in session mode between"
        return Finding("connections of Postgres", "warning", detail, remedy)
    return Finding("connections of Postgres", "ok", detail)


async def _migrations(engine: AsyncEngine) -> Finding:
    revision, head = await current_revision(engine), HEAD
    if revision == head:
        return Finding("migrations", "ok", f"the schema is at {head}")
    detail = f"the schema is at {revision or 'nothing'}, this version needs {head}"
    return Finding("migrations", "failure", detail, "Run `holdfast migrate`; `holdfast serve` does so by itself")


async def _partitions(engine: AsyncEngine, wanted: int | None) -> Finding:
    rows = await fetch_rows(engine, sa.select(installation.c.value).where(installation.c.key == "partitions"))
    if not rows:
        number = wanted or PARTITIONS_DEFAULT
        return Finding("partitions", "ok", f"not fixed yet; the first process to start fixes them to {number}")
    installed = int(rows[0]["value"])
    if wanted is not None and wanted != installed:
        detail = f"the installation has {installed}, HOLDFAST_PARTITIONS asks for {wanted}"
        return Finding("partitions", "failure", detail, "Unset HOLDFAST_PARTITIONS: the number can never change")
    return Finding("partitions", "ok", f"the installation has {installed}")


async def _reconcilers(engine: AsyncEngine) -> Finding:
    known = await read_heartbeats(engine)
    alive = [beat for beat in known if beat.alive]
    if alive:
        figures = ", ".join(f"{beat.host} {beat.pid} has {beat.partitions} partitions" for beat in alive)
        return Finding("reconcilers", "ok", f"{len(alive)} at work: {figures}")
    last = f"the last was seen {known[0].age_s:.0f} s ago" if known else "nor is an earlier one on record"
    remedy = (
        "Run `holdfast serve` without --no-reconciler, or `holdfast reconcile`: without one, bookings answered 202"
        " wait, and drift is found by nobody"
    )
    return Finding("reconcilers", "warning", f"none seen for {ALIVE_WITHIN_S:.0f} s; {last}", remedy)
