"""Where the microseconds of a hold go in the API's process: ``python loadtests/profile_hold.py [--seconds N]``.

Starts servers and one worker of its own, keeps 64 connections busy with holds of a counted place, as G1 does, and
prints a table of CPU time by stage, and of the functions that take most of it. The sampler itself makes the worker a
little slower, and time of the event loop may fall to the first function that it calls: shares are what to look at.
"""

from http_load import Load, Outcome, generator_name, send
from profiles import Profiled, Stages, run_profile

STAGES: Stages = (
    ("metrics", r"/engine/figures\.py"),
    ("transport to Redis, and waiting for it", r"/engine/(transport/|kernel|keys|time_limits)"),
    ("claim, places, ids, the hold as a value", r"/engine/"),
    ("JSON in and out, the answer's headers", r"/api/(decoding|holds|answers)\.py"),
    ("route, token, body, idempotency", r"/api/"),
    ("HTTP: parsing, tasks, writing", r"/(uvicorn|holdfast/http_)"),
)


async def hold(profiled: Profiled, seconds: int) -> Outcome:
    """Holds, by many customers in turn."""
    tokens_file = profiled.bench.scratch / "tokens"
    tokens_file.write_text("\n".join(profiled.tokens))
    path = f"/v1/events/{profiled.event_id}/holds"
    return await send(Load(profiled.worker.url, path, tokens_file, 0), duration_s=seconds)


if __name__ == "__main__":
    run_profile(hold, STAGES, operation="hold", generator=generator_name())
