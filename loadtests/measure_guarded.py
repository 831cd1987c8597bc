"""G1b: a hold with all that guards it, over the same hold for anybody, any number of times, counted by nobody."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Goal, Measure, Result, by_cpu_of, compare
from http_load import Load, generator_name
from measure_http import CUSTOMERS, PLACES, Worker, hold_load, running_worker
from venues import Venue, definition

from engine.rate_leases import LEASE_SHARE
from engine.rate_limits import RateLimit
from holdfast.figures_board import BOARD_VARIABLE, open_board
from holdfast.settings import RATE_BOUNDS, Settings, encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

G1B = Goal(name="G1b", title="API hold with authentication, limit, key and metrics / without them", must=0.85, aim=0.95)
G1B_RARE = Goal(name="G1b", title="the same by callers of whom nothing is taken in advance")
G1B_ADDRESS = Goal(name="G1b", title="the same with a limit by address as well")

KEY, NO_KEY = "Idempotency-Key", "Idempotency-Nil"  # the same bytes on the way, and one of them means nothing
NOBODY_IS_REFUSED = RateLimit(RATE_BOUNDS[0][1], RATE_BOUNDS[1][0], RATE_BOUNDS[2][1])
# 256 callers are busy ones: of a real sale's, who come once, nothing is taken in advance, and each request asks Redis.
NOTHING_IN_ADVANCE = msgspec.structs.replace(NOBODY_IS_REFUSED, burst=2 * LEASE_SHARE - 1)
_UNGUARDED = Path(__file__).with_name("unguarded_worker.py")


async def measure(bench: Bench) -> list[Result]:
    """One place of a counted section, by many customers in turn; the guarded worker also leaves its figures."""
    bench = msgspec.structs.replace(bench, plan=bench.plan.in_short_turns())
    by_caller = msgspec.structs.replace(bench.settings, rate_limit=NOBODY_IS_REFUSED)
    rarely = msgspec.structs.replace(bench.settings, rate_limit=NOTHING_IN_ADVANCE)
    by_both = msgspec.structs.replace(by_caller, rate_limit_by_address=NOBODY_IS_REFUSED)
    results = []
    async with bare_hold(bench) as (venue, baseline):
        for goal, settings in ((G1B, by_caller), (G1B_RARE, rarely), (G1B_ADDRESS, by_both)):
            async with guarded_hold(bench, venue, settings) as subject:
                results.append(
                    await compare(
                        goal,
                        "counted place",
                        subject,
                        baseline,
                        plan=bench.plan,
                        cpu_metric=by_cpu_of("api"),
                        note=generator_name(),
                    )
                )
        venue.check()
    return results


@contextlib.asynccontextmanager
async def bare_hold(bench: Bench, *without: str) -> AsyncIterator[tuple[Venue, Measure]]:
    """Holds of an event, now on sale, by a worker without a limit and *without* what else is named, or any of it."""
    document = definition("guarded", places=PLACES)
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    _tokens_file(bench).write_text("\n".join(tokens))
    environment = {SETTINGS_VARIABLE: encode_settings(bench.settings)}
    # Where everybody is a customer nobody can put an event on sale.
    async with running_worker(["-m", "holdfast.worker"], environment) as api, _organizer(bench, api) as client:
        (await client.post("/v1/events", json=document)).raise_for_status()
        (await client.post(f"/v1/events/{document['id']}/open")).raise_for_status()
    venue = bench.venue(document)
    async with running_worker([str(_UNGUARDED), *(without or ("identity", "figures"))], environment) as api:
        yield venue, _holds(bench, venue, api, NO_KEY)


@contextlib.asynccontextmanager
async def guarded_hold(
    bench: Bench, venue: Venue, settings: Settings, *, key_header: str = KEY
) -> AsyncIterator[Measure]:
    """The same by a worker as it is with *settings*."""
    with open_board(workers=1) as board:
        environment = {SETTINGS_VARIABLE: encode_settings(settings), BOARD_VARIABLE: str(board.descriptor)}
        async with running_worker(["-m", "holdfast.worker"], environment, pass_fds=[board.descriptor]) as api:
            yield _holds(bench, venue, api, key_header)


def _holds(bench: Bench, venue: Venue, api: Worker, key_header: str) -> Measure:
    event = f"/v1/events/{venue.event.event.id}"

    async def reload() -> httpx2.Response:
        async with _organizer(bench, api) as client:
            return await client.get(f"{event}/availability")

    load = Load(api.url, f"{event}/holds", _tokens_file(bench), 0, key_header)
    return hold_load(bench, api, venue, load, reload=reload)


def _tokens_file(bench: Bench) -> Path:
    return bench.scratch / "tokens"


def _organizer(bench: Bench, api: Worker) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    return httpx2.AsyncClient(base_url=api.url, headers=headers, trust_env=False, timeout=60)


MEASUREMENT = Measurement("G1b", G1B, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
