"""Every wait for Postgres has a bound, and everything that means "it does not answer" has one name."""

import asyncio
import os
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
import sqlalchemy as sa
from ledger_lab import Lab
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.errors import LedgerUnavailable
from persistence.database import (
    KeptConnection,
    driver_connection,
    fetch_rows,
    in_transaction,
    in_words,
    is_unavailable,
    ledger_errors,
    open_database,
    retrying,
)

pytest_plugins = ("ledger_fixtures",)

ONE = sa.select(sa.literal(1).label("one"))


@asynccontextmanager
async def opened(url: str, **options: int) -> AsyncIterator[AsyncEngine]:
    engine = open_database(url, **options)  # type: ignore[arg-type]
    yield engine
    await engine.dispose()


@asynccontextmanager
async def socket_served_by(serve: Callable[..., object]) -> AsyncIterator[str]:
    """A URL at which *serve* answers instead of Postgres."""
    with TemporaryDirectory(prefix="hf") as directory:  # a short path: sockets' names are limited to 107 bytes
        server = await asyncio.start_unix_server(serve, Path(directory) / ".s.PGSQL.5432")  # type: ignore[arg-type]
        yield f"postgresql://holdfast@/holdfast?host={quote(directory)}"
        server.close()


async def raise_state(engine: AsyncEngine, state: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(sa.text(f"DO $$ BEGIN RAISE 'made up' USING ERRCODE = '{state}'; END $$"))

    await in_transaction(engine, work)


async def test_nobody_listens_is_known_at_once(tmp_path: Path) -> None:
    async with opened(f"postgresql://holdfast@/holdfast?host={quote(str(tmp_path))}") as engine:
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await fetch_rows(engine, ONE)
        assert time.monotonic() - began < 1


async def test_refused_port_is_known_at_once() -> None:
    async with opened("postgresql://holdfast@127.0.0.1:1/holdfast") as engine:
        with pytest.raises(LedgerUnavailable):
            await fetch_rows(engine, ONE)


async def test_unknown_database_is_unavailable(lab: Lab) -> None:
    async with opened(urlsplit(lab.url)._replace(path="/no_such_database").geturl()) as engine:
        with pytest.raises(LedgerUnavailable, match="no_such_database"):
            await fetch_rows(engine, ONE)


async def test_server_that_accepts_and_never_answers_is_given_up_after_a_second() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with socket_served_by(say_nothing) as url, opened(url) as engine:
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await fetch_rows(engine, ONE)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("use", ["core", "driver"])
async def test_answer_that_never_comes_is_given_up_and_the_connection_with_it(lab: Lab, use: str) -> None:
    """The network swallows what the server says, in the middle of a session."""
    (directory,) = parse_qs(urlsplit(lab.url).query)["host"]
    swallowing = asyncio.Event()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_client: bool) -> None:
        while chunk := await reader.read(65536):
            if not (to_client and swallowing.is_set()):
                writer.write(chunk)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(os.path.join(directory, ".s.PGSQL.5432"))
        await asyncio.gather(pipe(reader, up_writer, to_client=False), pipe(up_reader, writer, to_client=True))

    async with socket_served_by(proxy) as socket_url:
        url = urlsplit(socket_url)._replace(path=urlsplit(lab.url).path).geturl()
        async with opened(url, statement_timeout_ms=200, pool_size=1) as engine:

            async def ask_driver() -> object:
                async with driver_connection(engine) as connection:
                    return await connection.fetchval("SELECT 1")

            async def ask() -> object:
                if use == "core":
                    return await in_transaction(engine, lambda connection: connection.execute(ONE))
                return await retrying(ask_driver)

            await ask()
            swallowing.set()
            began = time.monotonic()
            with pytest.raises(LedgerUnavailable):
                await ask()
            assert time.monotonic() - began < 3
            swallowing.clear()
            await ask()


async def test_session_has_the_bounds_of_the_design(lab: Lab) -> None:
    settings = {
        "lock_timeout": "500ms",
        "statement_timeout": "2s",
        "idle_in_transaction_session_timeout": "5s",
        "jit": "off",
        "synchronous_commit": "on",
        "transaction_isolation": "read committed",
        "application_name": "holdfast",
    }
    for name, value in settings.items():
        assert await lab.value(f"SHOW {name}") == value


async def test_wait_for_a_connection_of_the_pool_is_bounded(lab: Lab) -> None:
    async with opened(lab.url, pool_size=1) as engine, driver_connection(engine):
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await fetch_rows(engine, ONE)
        assert time.monotonic() - began < 1.5


async def test_slow_statement_is_ended_by_the_server_and_the_connection_lives_on(lab: Lab) -> None:
    async with opened(lab.url, pool_size=1, statement_timeout_ms=100) as engine:
        (before,) = await fetch_rows(engine, sa.select(sa.func.pg_backend_pid().label("pid")))
        with pytest.raises(LedgerUnavailable):
            await fetch_rows(engine, sa.select(sa.func.pg_sleep(5)))
        (after,) = await fetch_rows(engine, sa.select(sa.func.pg_backend_pid().label("pid")))
        assert before["pid"] == after["pid"]


async def test_connection_closed_by_the_server_while_idle_is_replaced_without_an_error(lab: Lab) -> None:
    async with opened(lab.url, pool_size=1) as engine:
        async with driver_connection(engine) as connection:
            pid = connection.get_server_pid()
        await lab.fetch("SELECT pg_terminate_backend($1)", pid)
        async with asyncio.timeout(5):
            while not connection.is_closed():  # noqa: ASYNC110 - the server's farewell has arrived then
                await asyncio.sleep(0.01)
        assert (await fetch_rows(engine, ONE))[0]["one"] == 1


async def test_connection_whose_block_failed_is_not_given_back(lab: Lab) -> None:
    async def fail(engine: AsyncEngine) -> None:
        async with driver_connection(engine) as connection:
            await connection.execute("BEGIN")
            await connection.execute("SELECT pg_advisory_lock(7)")
            raise RuntimeError("half-way")

    async with opened(lab.url, pool_size=1) as engine:
        with pytest.raises(RuntimeError, match="half-way"):
            await fail(engine)
        async with driver_connection(engine) as connection:
            assert not connection.is_in_transaction()
        assert await eventually_free(lab)


async def eventually_free(lab: Lab) -> bool:
    for _ in range(100):
        if not await lab.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7"):
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize(
    "state",
    ["08006", "25006", "25P03", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03", "58030"],
)
async def test_state_that_speaks_of_the_server_is_unavailable(lab: Lab, state: str) -> None:
    with pytest.raises(LedgerUnavailable):
        await raise_state(lab.engine, state)


@pytest.mark.parametrize("state", ["22P02", "23505", "42601", "P0001"])
async def test_state_that_speaks_of_the_statement_passes_through(lab: Lab, state: str) -> None:
    with pytest.raises(sa.exc.DBAPIError) as raised:
        await raise_state(lab.engine, state)
    assert not is_unavailable(raised.value)


@pytest.mark.parametrize("wrapped", [False, True], ids=["driver", "sqlalchemy"])
def test_driver_that_is_confused_about_its_connection_is_no_bug_of_ours(wrapped: bool) -> None:
    confusion: Exception = asyncpg.InternalClientError(
        "cannot switch to state 12; another operation (2) is in progress"
    )
    if wrapped:
        adapted = Exception(str(confusion))
        adapted.__cause__ = confusion
        confusion = sa.exc.DBAPIError("SELECT 1", None, adapted)

    with pytest.raises(LedgerUnavailable), ledger_errors():
        raise confusion


async def test_transaction_that_lost_to_another_is_run_again(lab: Lab) -> None:
    attempts = 0

    async def lose_twice(connection: AsyncConnection) -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            await connection.execute(sa.text("DO $$ BEGIN RAISE 'made up' USING ERRCODE = '40001'; END $$"))
        return "done"

    assert await in_transaction(lab.engine, lose_twice) == "done"
    assert attempts == 3


def test_driver_that_stumbles_over_the_server_s_farewell_says_that_postgres_is_away() -> None:
    farewell = asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")
    with pytest.raises(LedgerUnavailable), ledger_errors():
        raise farewell


async def test_error_that_is_told_leaves_out_what_people_have_said(lab: Lab) -> None:
    async with opened(lab.url, statement_timeout_ms=50) as engine:
        slow = sa.select(sa.func.pg_sleep(2), sa.literal("a reason that somebody gave"))
        with pytest.raises(LedgerUnavailable) as told:
            await fetch_rows(engine, slow)
        assert "somebody" not in str(told.value)


@pytest.mark.parametrize("way", ["sqlalchemy", "asyncpg"])
async def test_error_of_a_statement_repeats_no_row_nor_does_its_traceback(lab: Lab, way: str) -> None:
    statement = "INSERT INTO sinks (name, kind, target, types) VALUES ('crm', 'of somebody', NULL, '{}')"

    async def work(connection: AsyncConnection) -> None:
        if way == "sqlalchemy":
            await connection.execute(sa.text(statement))
        else:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute(statement)

    with pytest.raises((sa.exc.IntegrityError, asyncpg.NotNullViolationError)) as told:
        await in_transaction(lab.engine, work)
    traced = "".join(traceback.format_exception(told.value))
    assert "DETAIL" not in traced
    assert "Failing row" not in traced
    assert in_words(told.value).startswith("NotNullViolationError 23502: null value in column")
    assert "\n" not in in_words(told.value)


async def test_kept_connection_is_the_same_one_until_it_is_given_back(lab: Lab) -> None:
    kept = KeptConnection(lab.engine)
    pids = []
    for _ in range(3):
        async with kept.lend() as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
        assert checked_out(lab.engine) == 1
    await kept.give_back()
    assert len(set(pids)) == 1
    assert checked_out(lab.engine) == 0
    await kept.give_back()  # there is nothing to give back any more


async def test_kept_connection_is_another_one_after_a_failure_and_after_the_server_has_closed_it(lab: Lab) -> None:
    kept = KeptConnection(lab.engine)

    async def pid() -> int:
        async with kept.lend() as connection:
            found: int = await connection.fetchval("SELECT pg_backend_pid()")
            return found

    first = await pid()
    with pytest.raises(ValueError, match="on purpose"):
        async with kept.lend():
            raise ValueError("on purpose")
    assert checked_out(lab.engine) == 0
    async with kept.lend() as connection:
        second = await connection.fetchval("SELECT pg_backend_pid()")
    await lab.fetch("SELECT pg_terminate_backend($1)", second)
    async with asyncio.timeout(10):
        while not connection.is_closed():  # noqa: ASYNC110 - the driver tells nobody
            await asyncio.sleep(0.01)
    third = await pid()
    await kept.give_back()
    assert len({first, second, third}) == 3


def checked_out(engine: AsyncEngine) -> int:
    pool = engine.sync_engine.pool
    assert isinstance(pool, sa.QueuePool)
    return pool.checkedout()
