"""G1b, the part of metrics: the whole API with its figures against the same that counts nothing."""

from functools import partial
from pathlib import Path

import httpx2
from bench import Bench
from goal_program import Measurement, run_alone
from harness import Goal, Result, by_cpu_of, compare
from http_load import Load, generator_name
from measure_http import CUSTOMERS, PLACES, hold_load, running_worker
from venues import definition

from holdfast.figures_board import BOARD_VARIABLE, open_board
from holdfast.settings import encode_settings
from holdfast.tokens import make_token
from holdfast.worker import SETTINGS_VARIABLE

G1B_FIGURES = Goal(name="G1b", title="API hold with metrics / without", must=0.95, aim=0.97)

_UNCOUNTED = Path(__file__).with_name("uncounted_worker.py")


async def measure(bench: Bench) -> list[Result]:
    """One place of a counted section, by many customers in turn; the counting worker also leaves its figures."""
    tokens_file = bench.scratch / "tokens"
    tokens = [make_token(bench.settings, f"customer-{number}", ["customer"]) for number in range(CUSTOMERS)]
    tokens_file.write_text("\n".join(tokens))
    organizer = {"authorization": f"Bearer {make_token(bench.settings, 'olga', ['organizer'])}"}
    document = definition("counted", places=PLACES)
    event = f"/v1/events/{document['id']}"
    settings = {SETTINGS_VARIABLE: encode_settings(bench.settings)}
    with open_board(workers=1) as board:
        counting = {**settings, BOARD_VARIABLE: str(board.descriptor)}
        async with (
            running_worker(["-m", "holdfast.worker"], counting, pass_fds=[board.descriptor]) as counted,
            running_worker([str(_UNCOUNTED)], settings) as uncounted,
            httpx2.AsyncClient(base_url=counted.url, headers=organizer, trust_env=False, timeout=60) as client,
        ):
            (await client.post("/v1/events", json=document)).raise_for_status()
            (await client.post(f"{event}/open")).raise_for_status()
            venue = bench.venue(document)
            reload = partial(client.get, f"{event}/availability")
            subject, baseline = (
                hold_load(bench, api, venue, Load(api.url, f"{event}/holds", tokens_file, 0), reload=reload)
                for api in (counted, uncounted)
            )
            note = generator_name()
            result = await compare(
                G1B_FIGURES, "counted place", subject, baseline, plan=bench.plan, cpu_metric=by_cpu_of("api"), note=note
            )
            venue.check()
    return [result]


MEASUREMENT = Measurement("G1b", G1B_FIGURES, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
