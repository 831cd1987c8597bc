"""What waits for a person in the ledger, told by ``holdfast doctor``: a few queries, each with a bound."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.store_checks import Finding
from persistence.database import fetch_rows
from persistence.publishing.letters import queue_states
from persistence.schema import events, installation, payments, refunds

COUNTED_MAX = 1_000  # of a kind; past it the number tells a person nothing more
OVERDUE_S = 120.0  # a payment that is taken is put off by a minute
ATTEMPTS_MANY = 5  # of one delivery, over some minutes


async def examine_trouble(engine: AsyncEngine, *, providers: Collection[str]) -> list[Finding]:
    """Payments, refunds, events that nobody can pay for, webhooks; *providers* are those of these settings.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    is_overdue = payments.c.check_at < sa.func.now() - sa.text(f"interval '{OVERDUE_S} seconds'")
    overdue = await _count(engine, sa.select(payments.c.id).where(is_overdue))
    refused = await _count(engine, sa.select(refunds.c.id).where(refunds.c.state == "refused"))
    paid = events.c.definition["policy"]["payment"].astext == "required"
    on_sale = 0 if providers else await _count(engine, sa.select(events.c.id).where(events.c.status == "open", paid))
    return [
        _warn("payments", overdue, "overdue by minutes", "Run a reconciler with HOLDFAST_PAYMENT_PROVIDERS as here"),
        _warn("refunds", refused, "refused by a provider", "See docs/guide/payments.md; give the money back by hand"),
        _warn(
            "payment providers",
            on_sale,
            "events on sale that ask for payment, and no provider here",
            "Set HOLDFAST_PAYMENT_PROVIDERS",
        ),
        await _webhooks(engine),
    ]


async def installed_partitions(engine: AsyncEngine) -> int | None:
    """How many partitions the installation has; ``None`` before a process has started."""
    rows = await fetch_rows(engine, sa.select(installation.c.value).where(installation.c.key == "partitions"))
    return int(rows[0]["value"]) if rows else None


async def _count(engine: AsyncEngine, query: sa.Select[tuple[object]]) -> int:
    rows = await fetch_rows(engine, query.limit(COUNTED_MAX))
    return len(rows)


def _warn(subject: str, count: int, what: str, remedy: str) -> Finding:
    if not count:
        return Finding(subject, "ok", f"none {what}" if subject != "payment providers" else "as the events need them")
    number = f"{count} or more" if count == COUNTED_MAX else str(count)
    return Finding(subject, "warning", f"{number} {what}", remedy)


async def _webhooks(engine: AsyncEngine) -> Finding:
    states = [state for state in (await queue_states(engine)).values() if not state.disabled]
    failing = sum((state.attempts or 0) >= ATTEMPTS_MANY for state in states)
    dead = sum(state.dead for state in states)
    if failing or dead:
        detail = f"{failing} sinks fail again and again; {dead} deliveries were given up"
        return Finding("webhooks", "warning", detail, "See `holdfast webhooks list`")
    return Finding("webhooks", "ok", "none fails")
