"""Handlers for those who run Holdfast: is it alive, is it ready, what is it."""

import asyncio
import time
from typing import Literal

import msgspec

from api.answers import Answer, json_answer
from api.call import Call
from api.services import ReadinessCheck

CHECK_TIMEOUT_S = 2.0  # orchestrators ask every few seconds and wait about as long


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one check found; ``reason`` is the name of what went wrong."""

    ok: bool
    elapsed_ms: float
    reason: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served, and if not, for want of what."""

    status: Literal["ready", "unready"]
    checks: dict[str, Verdict]


async def show_health(call: Call) -> Answer:  # noqa: ARG001 - all handlers are called alike
    """``GET /healthz`` → 200 as long as the process answers at all."""
    return json_answer(Health("ok"))


async def show_readiness(call: Call) -> Answer:
    """``GET /readyz`` → 200, or 503 with the verdicts that say why."""
    checks = call.services.checks
    verdicts = await asyncio.gather(*map(_judge, checks.values()))
    if all(verdict.ok for verdict in verdicts):
        return json_answer(Readiness("ready", dict(zip(checks, verdicts, strict=True))))
    document = Readiness("unready", dict(zip(checks, verdicts, strict=True)))
    return json_answer(document, status=503, headers=((b"retry-after", b"1"),))


async def show_info(call: Call) -> Answer:
    """``GET /v1/info`` → 200."""
    return json_answer(call.services.info)


async def _judge(check: ReadinessCheck) -> Verdict:
    """Run one check. Whatever it raises is a verdict: its class is told, its message is not (the page is public)."""
    started_at = time.monotonic()
    reason = None
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except Exception as error:
        reason = type(error).__name__
    return Verdict(reason is None, round((time.monotonic() - started_at) * 1000, 1), reason)
