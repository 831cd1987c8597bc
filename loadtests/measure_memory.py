"""G6: what a seat costs in Valkey's memory."""

import asyncio
import random
import time

from bench import Bench
from goal_program import Measurement, run_alone
from harness import Goal, Result, Void
from venues import SEATS_MAX_OF_GOALS, definition

AT_REST = Goal(name="G6", title="bytes per seat, at rest", must=1, aim=0.4, is_ceiling=True)
HELD = Goal(name="G6", title="bytes per seat, 10 % held", must=24, aim=12, is_ceiling=True)

QUICK_SEATS = 200_000
HELD_SHARE = 0.10
SEATS_PER_HOLD = (1, 4)
SETTLE_S = 3.0  # the server looks at its clients' buffers once a second
BATCH = 2_000  # holds packed at a time


async def measure(bench: Bench) -> list[Result]:
    """One venue; holds of one seat, and of four, each of another customer, seats scattered at random."""
    seat_count = SEATS_MAX_OF_GOALS if bench.plan.scale >= 1 else QUICK_SEATS
    venue = bench.venue(definition("arena", seats=seat_count))
    venue.load()  # once for nothing: what the server allocates for commands of this size is no part of a venue
    venue.forget()
    before = await _settled_bytes(bench)
    venue.load()
    results = [_result(AT_REST, f"{seat_count:,} seats", (await _settled_bytes(bench) - before) / seat_count)]
    for seats_per_hold in SEATS_PER_HOLD:
        venue.load()
        seats = list(range(seat_count))
        random.Random(7).shuffle(seats)
        held = round(HELD_SHARE * seat_count)
        for start in range(0, held, seats_per_hold * BATCH):
            wires = [
                venue.hold_wire(f"0:1;0#{','.join(map(str, seats[n : n + seats_per_hold]))}", owner=b"customer-%d" % n)
                for n in range(start, min(held, start + seats_per_hold * BATCH), seats_per_hold)
            ]
            if any(reply[0] != b"HELD" for reply in bench.pipe.send(wires)):
                raise Void("a hold was refused")
        venue.check_held(held)
        venue.drop_trail()  # its lines are in Postgres seconds later
        figure = (await _settled_bytes(bench) - before) / seat_count
        results.append(_result(HELD, f"{seats_per_hold} a hold, {seat_count:,} seats", figure))
    venue.check()
    venue.forget()
    return results


async def _settled_bytes(bench: Bench) -> int:
    """The bytes of data when buffers of clients, which the server counts with them, have been given back."""
    lowest, until = bench.dataset_bytes(), time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        await asyncio.sleep(0.2)
        lowest = min(lowest, bench.dataset_bytes())
    return lowest


def _result(goal: Goal, case: str, figure: float) -> Result:
    return Result(goal=goal, case=case, figure=figure, verdict=goal.verdict(figure), note="used_memory_dataset")


MEASUREMENT = Measurement("G6", AT_REST, measure)

if __name__ == "__main__":
    run_alone(MEASUREMENT)
