"""Handlers for those who run Holdfast: is it alive, is it ready, what is it, how much does it do."""

import asyncio
import time
from typing import Literal

import msgspec

from api.answers import Answer, json_answer
from api.call import Call
from api.services import Impaired, ReadinessCheck, Severity
from engine.time_limits import give_up_after

CHECK_TIMEOUT_S = 2.0  # orchestrators ask every few seconds and wait about as long


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one check found.

    Of a failure, ``severity`` is what it makes of the process, and ``reason`` says what is wrong, or names the error.
    """

    ok: bool
    elapsed_ms: float
    severity: Severity | None = None
    reason: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served: all, all but what the failed checks name (``degraded``), or none."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, Verdict]


async def show_health(call: Call) -> Answer:  # noqa: ARG001 - all handlers are called alike
    """``GET /healthz`` → 200 as long as the process answers at all."""
    return json_answer(Health("ok"))


async def show_readiness(call: Call) -> Answer:
    """``GET /readyz`` → 200 as long as places can be held; 503 with the verdicts that say why not."""
    checks = call.services.checks
    verdicts = dict(zip(checks, await asyncio.gather(*map(_judge, checks.values())), strict=True))
    severities = {verdict.severity for verdict in verdicts.values()}
    if "unready" in severities:
        return json_answer(Readiness("unready", verdicts), status=503, headers=((b"retry-after", b"1"),))
    return json_answer(Readiness("degraded" if "degraded" in severities else "ready", verdicts))


async def show_metrics(call: Call) -> Answer:
    """``GET /metrics`` → 200, in Prometheus's text format, or OpenMetrics where that is accepted."""
    scraped = await call.services.scrape(call.headers.get(b"accept", b"").decode("latin-1"))
    return Answer(200, scraped.body, scraped.content_type)


async def show_info(call: Call) -> Answer:
    """``GET /v1/info`` → 200."""
    return json_answer(call.services.info)


async def _judge(check: ReadinessCheck) -> Verdict:
    """Run one check. Whatever it raises is a verdict: its class is told, its message is not (the page is public)."""
    started_at = time.monotonic()
    severity: Severity | None = None
    reason = None
    try:
        await give_up_after(CHECK_TIMEOUT_S, check.run())
    except Impaired as impairment:
        severity, reason = "degraded", str(impairment)
    except Exception as error:
        severity, reason = check.severity, type(error).__name__
    return Verdict(severity is None, round((time.monotonic() - started_at) * 1000, 1), severity, reason)
