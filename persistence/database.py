"""The way to Postgres: connections with bounds on every wait, and one place where its failures get their name."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from engine.errors import LedgerUnavailable

T = TypeVar("T")
Row = Mapping[Any, Any]  # columns by name, whether SQLAlchemy or asyncpg has read them

APPLICATION_NAME = "holdfast"
CONNECT_TIMEOUT_S = 1.0  # also the longest wait for a free connection of the pool
COMMAND_GRACE_S = 1.0  # past the server's own time-out we stop waiting: the network has swallowed the answer
ATTEMPTS_MAX = 3  # of a transaction that lost to a deadlock, a serialization failure or a lock's time-out
RETRY_PAUSE_S = 0.02  # times a random factor up to the number of the attempt

# SQLSTATEs after which the same transaction may well succeed at once: it was rolled back for another one's sake.
_TRANSIENT = frozenset({"40001", "40P01", "55P03"})
# SQLSTATEs, or their classes, that speak of the server and not of the statement.
_UNAVAILABLE = (
    "08",  # connection lost
    "25006",  # read-only: a standby, or a primary that was just demoted
    "25P03",  # our transaction was idle for too long
    "28",  # refused to log in
    "3D",  # no such database
    "53",  # out of memory, disk or connections
    "55000",  # the database takes no connections
    "57",  # shutting down, starting up, statement_timeout
    "58",  # I/O error
)


def open_database(
    url: str,
    *,
    pool_size: int = 8,
    statement_timeout_ms: int = 2_000,
    lock_timeout_ms: int = 500,
    application_name: str = APPLICATION_NAME,
) -> AsyncEngine:
    """An engine for *url*, which is libpq's (``postgresql://user@/database?host=/socket/dir&sslmode=require``).

    Nothing is connected yet. JSON columns come and go as text: msgspec decodes them into the types wanted
    (SQLAlchemy's reflection, which nothing here uses, would need them decoded).
    """
    dsn = "postgresql://" + url.partition("://")[2]
    settings = {
        "application_name": application_name,
        "jit": "off",  # every query is short
        "plan_cache_mode": "force_generic_plan",  # every one goes by a key; planning is a third of a small commit
        "lock_timeout": str(lock_timeout_ms),
        "statement_timeout": str(statement_timeout_ms),
        "idle_in_transaction_session_timeout": "5000",
        "synchronous_commit": "on",  # a 201 promises it, whatever the server's own default is
        "default_transaction_isolation": "read committed",
    }

    async def connect() -> Any:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_ms / 1000 + COMMAND_GRACE_S,
            server_settings=settings,
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        hide_parameters=True,  # errors are logged, and what people have said is among the parameters
        json_serializer=_as_it_is,
        json_deserializer=_as_it_is,
    )
    sa.event.listen(engine.sync_engine, "checkout", _refuse_closed)
    sa.event.listen(engine.sync_engine, "handle_error", _abandon_silent)
    return engine


async def in_transaction(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run *work* in a transaction of its own, again when it lost to another transaction.

    Raises:
        LedgerUnavailable: Postgres does not answer. If that was at the commit, whether it happened is not known.
    """

    async def attempt() -> T:
        async with engine.begin() as connection:
            return await work(connection)

    return await retrying(attempt)


async def outside_transaction(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run *work*, whose statements need not fit together, without the round trips of a transaction.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    with ledger_errors():
        async with engine.connect() as connection:
            return await work(await connection.execution_options(isolation_level="AUTOCOMMIT"))


async def fetch_rows(engine: AsyncEngine, query: sa.Select[Any]) -> Sequence[Row]:
    """The rows of one query.

    Raises:
        LedgerUnavailable: Postgres does not answer.
    """
    result = await outside_transaction(engine, lambda connection: connection.execute(query))
    rows: Sequence[Row] = result.mappings().all()
    return rows


async def retrying(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat what lost to another transaction, a bounded number of times; name every other failure."""
    with ledger_errors():
        for number in range(1, ATTEMPTS_MAX):
            try:
                return await attempt()
            except (sa.exc.DBAPIError, asyncpg.PostgresError) as error:
                if sqlstate(error) not in _TRANSIENT:
                    raise
            await asyncio.sleep(RETRY_PAUSE_S * number * random.random())  # noqa: S311 - spreads rivals, no secret
        return await attempt()


@asynccontextmanager
async def driver_connection(engine: AsyncEngine) -> AsyncIterator[Any]:
    """Lend a connection of the pool as asyncpg's own, for SQL whose speed matters.

    When the block raises anything, the connection is closed rather than given back: nobody knows what it is in the
    middle of. That also releases its session locks. Errors of the block are not translated.
    """
    with ledger_errors():
        connection = await engine.connect()
    try:
        with ledger_errors():
            raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        try:
            yield raw
        except BaseException as error:
            _leave_out_row(error)
            raw.terminate()
            await connection.invalidate()
            raise
    finally:
        await connection.close()


class KeptConnection:
    """A connection for a row of transactions, for one user: taken at the first, given back when the row has ended.

    What the pool does between two of them took our process as long as the work on three bookings, while the next batch
    waited.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lending: AbstractAsyncContextManager[Any] | None = None
        self._connection: Any = None

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Any]:
        """As :func:`driver_connection`: the same one as last time, unless something has happened to it."""
        if self._lending is not None and self._connection.is_closed():
            await self.give_back()
        if self._lending is None:
            lending = driver_connection(self._engine)
            self._connection = await lending.__aenter__()
            self._lending = lending
        try:
            yield self._connection
        except BaseException:
            await self._end(*sys.exc_info())
            raise

    async def give_back(self) -> None:
        """Nothing more is to be done now."""
        await self._end(None, None, None)

    async def _end(self, *error: Any) -> None:
        if (lending := self._lending) is not None:
            self._lending = None
            await lending.__aexit__(*error)


@contextmanager
def ledger_errors() -> Iterator[None]:
    """Turn everything that means "Postgres does not answer" into ``LedgerUnavailable``.

    Put it around our own calls of the driver and nothing else: a time-out of somebody else's has the same type.
    """
    try:
        yield
    except (
        sa.exc.SQLAlchemyError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        _leave_out_row(error)
        if not is_unavailable(error):
            raise
        raise LedgerUnavailable(in_words(error)) from error


def in_words(error: BaseException) -> str:
    """An error in a line that may be logged and kept: its kind, SQLSTATE, constraint and the server's main message.

    What Postgres says beside that repeats the row that it refused, with whatever people have said in it.
    """
    cause = _of_server(error)
    if cause is None:
        return f"{type(error).__name__}: {_before_detail(str(error))}"
    told = [type(cause).__name__, cause.sqlstate, getattr(cause, "constraint_name", None)]
    return f"{' '.join(one for one in told if one)}: {cause.args[0] if cause.args else ''}"


def _of_server(error: BaseException) -> asyncpg.PostgresError | None:
    """The driver's own error, which SQLAlchemy wraps twice."""
    for one in _wrapped(error):
        if isinstance(one, asyncpg.PostgresError):
            return one
    return None


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        yield from (error, error.orig)
        if error.orig.__cause__ is not None:
            yield error.orig.__cause__
    else:
        yield error


def _leave_out_row(error: BaseException) -> None:
    """Have *error* and what it wraps repeat no row, whoever logs it, or its traceback, later on."""
    for one in _wrapped(error):
        if isinstance(one, asyncpg.PostgresError):
            one.detail = None
        else:
            one.args = tuple(_before_detail(arg) if isinstance(arg, str) else arg for arg in one.args)


def _before_detail(text: str) -> str:
    return text.partition("\nDETAIL:")[0]


def is_unavailable(error: Exception) -> bool:
    """Whether *error*, from driver or pool, says that Postgres cannot be had, rather than that a statement is wrong."""
    if isinstance(error, OSError | sa.exc.TimeoutError):  # TimeoutError is an OSError
        return True
    if (state := sqlstate(error)) is not None:
        return state in _TRANSIENT or state.startswith(_UNAVAILABLE)
    # The driver has no code for a connection it finds closed.
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if _is_confused(cause):
        return True
    return "closed" in str(cause) or isinstance(getattr(cause, "__cause__", None), OSError)


def _is_confused(error: BaseException | None) -> bool:
    """Whether the driver stumbled over a server's farewell: it came between looking at a connection and using it."""
    return isinstance(error, asyncpg.InternalClientError) or isinstance(
        getattr(error, "__cause__", None), asyncpg.InternalClientError
    )


def sqlstate(error: BaseException) -> str | None:
    """The server's five characters, of an error of the driver or of SQLAlchemy's wrapping of one."""
    if isinstance(error, sa.exc.DBAPIError):
        error = error.orig or error
    return getattr(error, "sqlstate", None)


def _as_it_is(text: str) -> str:
    return text


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Let the pool replace a connection that the server has closed; costs no round trip, unlike a ping."""
    if connection.driver_connection.is_closed():
        raise sa.exc.DisconnectionError("closed by the server")


def _abandon_silent(context: sa.engine.ExceptionContext) -> None:
    """Cut a connection whose answer did not come: a rollback on it would wait for the same answer, without a bound.

    One whose driver is confused is of no use either.
    """
    error = context.original_exception
    if (isinstance(error, TimeoutError) or _is_confused(error)) and context.connection is not None:
        silent: Any = context.connection.connection.driver_connection
        silent.terminate()
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
