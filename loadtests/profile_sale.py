"""Where the microseconds of a durable sale go in the API's process: ``python loadtests/profile_sale.py [--seconds N]``.

As :mod:`profile_hold`, with the load of G4c: a hold and then its confirmation, answered when it is committed. What both
requests cost in HTTP and in the transport to Redis is not told apart.
"""

from http_load import Outcome
from measure_peers import buy
from profiles import Profiled, Stages, run_profile

STAGES: Stages = (
    ("metrics", r"/engine/figures\.py"),
    ("audit log", r"/api/audit_log\.py|/holdfast/logs\.py"),
    ("personal data, sealed and opened", r"/persistence/sealing\.py"),
    ("the entry made ready for the ledger, and the booking it becomes", r"/persistence/ledger_entries\.py"),
    ("group commit: batches, Postgres's driver, waiting for it", r"/persistence/|/asyncpg/|/sqlalchemy/"),
    ("settlement, and the journal", r"/engine/(settlement|journal)\.py"),
    ("transport to Redis, and waiting for it", r"/engine/(transport/|kernel|keys|time_limits)"),
    ("claims, places, ids, scripts' arguments and answers", r"/engine/"),
    ("JSON in and out, the answers' headers", r"/api/(decoding|answers|versions)\.py"),
    ("the handler of bookings", r"/api/(bookings|payments)\.py"),
    ("routes, tokens, bodies, idempotency", r"/api/"),
    ("HTTP: parsing, tasks, writing", r"/(uvicorn|holdfast/http_)"),
)


async def sell(profiled: Profiled, seconds: int) -> Outcome:
    """Sales, each customer with a connection."""
    return await buy(profiled.worker.url, profiled.event_id, profiled.tokens, duration_s=seconds)


if __name__ == "__main__":
    run_profile(sell, STAGES, operation="sale", generator="a generator in Python")
