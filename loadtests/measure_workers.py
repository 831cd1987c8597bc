"""G11: two workers over one, behind one listening socket or one each; the generator takes its part of the cores."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import httpx2
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Goal, Measure, Result, compare
from http_load import Load, generator_name
from measure_http import CUSTOMERS, PLACES, Worker, hold_load, running_worker
from venues import definition

from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

G11 = Goal(name="G11", title="two workers / one")
APART = Goal(name="G11", title="two workers, a socket each (SO_REUSEPORT) / one socket for both")


async def measure(bench: Bench) -> list[Result]:
    """One place of a counted section, by many customers in turn."""
    tokens_file = bench.scratch / "tokens"
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    tokens_file.write_text("\n".join(tokens))
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    document = definition("counted", places=PLACES)
    event = f"/v1/events/{document['id']}"
    async with (
        running_worker(["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}) as one,
        _two_workers(bench) as two,
        _two_workers(bench, apart=True) as two_apart,
        httpx2.AsyncClient(base_url=one.url, headers=organizer, trust_env=False, timeout=60) as client,
    ):
        (await client.post("/v1/events", json=document)).raise_for_status()
        (await client.post(f"{event}/open")).raise_for_status()
        venue = bench.venue(document)
        reload = partial(client.get, f"{event}/availability")

        def load(api: Worker) -> Measure:
            return hold_load(bench, api, venue, Load(api.url, f"{event}/holds", tokens_file, 0), reload=reload)

        results = [
            await compare(goal, "counted place", load(subject), load(baseline), plan=bench.plan, note=generator_name())
            for goal, subject, baseline in ((G11, two, one), (APART, two_apart, two))
        ]
        venue.check()
    return results


@contextlib.asynccontextmanager
async def _two_workers(bench: Bench, *, apart: bool = False) -> AsyncIterator[Worker]:
    """Two processes that accept from one socket, as ``holdfast serve --workers 2`` has them; their CPU adds up."""
    arguments, environment = ["-m", "holdfast.worker"], {SETTINGS_VARIABLE: encode_settings(bench.settings)}
    async with running_worker(arguments, environment, count=2, apart=apart) as both:
        yield both


MEASUREMENT = Measurement("G11", G11, measure, slow=True)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
