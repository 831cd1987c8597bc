"""A shop on FastAPI and asyncpg that holds and confirms as one of the strategies does, served as ours is served.

Run as ``python -m baselines.app <schema>``, with the descriptor of its socket in ``HOLDFAST_LISTENER`` and Postgres in
``DATABASE_URL``. Bodies are Holdfast's; the bearer token is not checked, its last characters stand for its customer.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import asyncpg
import msgspec
import uuid_utils
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response

from baselines.strategies import STRATEGIES, Strategy, Wish
from holdfast.worker import BACKLOG, GRACE_S, LISTENER_VARIABLE

DATABASE_VARIABLE = "DATABASE_URL"
VOLATILE_VARIABLE = "BASELINE_VOLATILE_HOLDS"  # "1": a hold, not a sale, is acknowledged before it is on disk
POOL_VARIABLE = "BASELINE_POOL_SIZE"
TTL_S = 600.0
CUSTOMER_CHARACTERS = 16
_AS_OURS = {  # what persistence.database asks of a session for the sake of speed and durability
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "synchronous_commit": "on",
    "enable_seqscan": "off",  # every statement goes by a key; no plan made while a table was small stays slow
}


class Item(msgspec.Struct, frozen=True):
    """Places of the only section."""

    section: str
    quantity: int


class Claim(msgspec.Struct, frozen=True):
    """The body of a hold."""

    items: list[Item]
    ttl: float = TTL_S


class Sale(msgspec.Struct, frozen=True):
    """The body of a confirmation."""

    hold_id: str


_read_claim = msgspec.json.Decoder(Claim).decode
_read_sale = msgspec.json.Decoder(Sale).decode
_write = msgspec.json.Encoder().encode


def create_app(strategy: Strategy, *, holds: Any, sales: Any) -> FastAPI:
    """The two endpoints; *holds* and *sales* are pools, which may be the same."""
    app = FastAPI(openapi_url=None)

    @app.post("/v1/events/{event_id}/holds")
    async def hold(event_id: str, request: Request) -> Response:
        """201, or 409 when too few places are free."""
        claim = _read_claim(await request.body())
        quantity = sum(item.quantity for item in claim.items)
        wish = Wish(str(uuid_utils.uuid7()), event_id, _customer(request.headers), quantity, claim.ttl)
        async with holds.acquire() as connection:
            held = await strategy.hold(connection, wish)
        if not held:
            return _json(409, {"type": "places-unavailable"})
        return _json(201, {"id": wish.hold_id, "event_id": event_id, "items": claim.items, "ttl": claim.ttl})

    @app.post("/v1/bookings")
    async def confirm(request: Request) -> Response:
        """201 when it is committed, or 410 when the hold has lapsed, is sold, or never was."""
        hold_id = _read_sale(await request.body()).hold_id
        async with sales.acquire() as connection:
            sold = await strategy.confirm(connection, hold_id, _customer(request.headers))
        return _json(201, {"id": hold_id, "status": "confirmed"}) if sold else _json(410, {"type": "hold-expired"})

    return app


async def prepare(url: str, strategy: Strategy) -> None:
    """Make the schema of *strategy*."""
    connection = await asyncpg.connect(url, server_settings={"search_path": strategy.schema})
    try:
        await connection.execute(f"CREATE SCHEMA {strategy.schema}; {strategy.tables}")
    finally:
        await connection.close()


def open_pool(url: str, strategy: Strategy, *, size: int | None = None, volatile: bool = False) -> Any:
    """A pool whose connections are made at once, never reset between two uses, and keep their prepared statements.

    With *volatile*, commits are acknowledged before they are on disk.
    """
    settings = {**_AS_OURS, "search_path": strategy.schema} | ({"synchronous_commit": "off"} if volatile else {})
    size = size or strategy.pool_size
    return asyncpg.create_pool(
        url,
        min_size=size,
        max_size=size,
        max_queries=2**31,
        max_inactive_connection_lifetime=0,
        reset=_leave_as_it_is,
        server_settings=settings,
    )


async def _leave_as_it_is(_: Any) -> None:
    """Nothing here changes a session, and resetting one is a round trip."""


def _customer(headers: Mapping[str, str]) -> str:
    return headers.get("authorization", "nobody")[-CUSTOMER_CHARACTERS:]


def _json(status: int, value: Any) -> Response:
    return Response(_write(value), status_code=status, media_type="application/json")


async def _serve(listener: socket.socket, strategy: Strategy) -> None:
    url, volatile = os.environ[DATABASE_VARIABLE], os.environ.get(VOLATILE_VARIABLE) == "1"
    size = int(os.environ.get(POOL_VARIABLE, strategy.pool_size))
    async with (
        open_pool(url, strategy, size=size, volatile=volatile) as holds,
        open_pool(url, strategy, size=size) as sales,
    ):
        config = uvicorn.Config(
            create_app(strategy, holds=holds, sales=sales if volatile else holds),
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACE_S,
        )
        await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Serve until SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn sends them once more when it has stopped
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(socket.socket(fileno=int(os.environ[LISTENER_VARIABLE])), STRATEGIES[sys.argv[1]]))


if __name__ == "__main__":
    main()
