"""Where the layers meet: from settings to services, and an orderly end."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import httpx2
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import lua
from api.identity import KeySource, SharedSecret, TokenVerifier
from api.jwks import JwksKeys, fetch_from
from api.services import Info, ReadinessCheck, Services
from engine.catalog import Catalog
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.once import OnceStore
from engine.reservations import Reservations
from engine.settlement import Settlement
from engine.store_checks import require_fit_store
from engine.transport.open import Transport, open_transport
from engine.verification import Verification
from holdfast.settings import Settings, SettingsError, data_key
from holdfast.settings import jwt_secret as jwt_secret  # the demo knows it from here
from persistence.bookings import Bookings
from persistence.database import fetch_rows, open_database
from persistence.events import Events
from persistence.installation import ensure_partitions
from persistence.ledger import PostgresLedger
from persistence.partition_leases import PartitionLeases
from persistence.reconciler import Reconciler
from persistence.reconciling.equipment import Equipment, audit_with, drain_with
from persistence.revision import HEAD, current_revision
from persistence.sealing import AesSealer
from persistence.verification import LedgerAuditor

COMMIT_CONNECTIONS = 1  # a batch at a time is written


class NotMigrated(Exception):
    """The database's schema is not the one this version needs."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The connections to Postgres beside those of the group commit."""

    size: int = 8
    statement_timeout_ms: int = 2_000


API_POOL = Pool()
# Audits and rebuilds read much and hurry little. Five audits and three loads at a time, and whatever is short beside.
RECONCILER_POOL = Pool(size=12, statement_timeout_ms=5_000)


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is made of; commands that look behind the API use these."""

    database: AsyncEngine
    kernel: Kernel
    catalog: Catalog
    loader: EventLoader
    events: Events
    bookings: Bookings
    settlement: Settlement
    reservations: Reservations


@asynccontextmanager
async def open_parts(settings: Settings, pool: Pool = API_POOL) -> AsyncIterator[Parts]:
    """Connect to Redis and Postgres as *settings* say, and check that both will do.

    Raises:
        NotMigrated, UnfitStore, PartitionsDiffer, SettingsError: What must be put right first.
        LedgerUnavailable, NotSent: A server does not answer.
    """
    assert settings.redis_url is not None  # holdfast.servers has filled them in
    assert settings.database_url is not None
    async with AsyncExitStack() as stack:
        database = open_database(
            settings.database_url, pool_size=pool.size, statement_timeout_ms=pool.statement_timeout_ms
        )
        stack.push_async_callback(database.dispose)
        if await current_revision(database) != HEAD:
            raise NotMigrated("the database is not migrated to this version: run `holdfast migrate`")
        partitions = await ensure_partitions(database, settings.partitions)
        transport = await _open_transport(settings.redis_url)
        stack.push_async_callback(transport.aclose)
        await require_fit_store(transport)
        sealer = AesSealer([data_key(settings)])
        kernel = Kernel(transport, partitions=partitions)
        events, bookings = Events(database), Bookings(database, sealer)
        catalog = Catalog(events)
        loader = EventLoader(kernel, events, catalog)
        kernel.load_events_with(loader.load)
        # Commits have connections of their own: whatever else asks Postgres, a 201 does not wait in line for it.
        commits = open_database(settings.database_url, pool_size=COMMIT_CONNECTIONS)
        stack.push_async_callback(commits.dispose)
        ledger = PostgresLedger(database, sealer, commits=commits)
        stack.push_async_callback(ledger.close)
        settlement = Settlement(kernel, ledger, catalog, loader)
        stack.push_async_callback(settlement.close)
        verification = Verification(LedgerAuditor(database, kernel, bookings), wait_s=settings.confirm_timeout_s)
        stack.push_async_callback(verification.close)
        yield Parts(
            database=database,
            kernel=kernel,
            catalog=catalog,
            loader=loader,
            events=events,
            bookings=bookings,
            settlement=settlement,
            reservations=Reservations(
                kernel,
                catalog,
                loader,
                ledger,
                sealer,
                settlement,
                verification,
                confirm_timeout_s=settings.confirm_timeout_s,
            ),
        )


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Everything the API needs, until the context ends."""
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(settings))
        verifier = await stack.enter_async_context(_open_verifier(settings))
        yield Services(
            reservations=parts.reservations,
            events=parts.events,
            bookings=parts.bookings,
            once=OnceStore(parts.kernel),
            verifier=verifier,
            info=Info(name="holdfast", version=version("holdfast"), partitions=parts.kernel.partitions),
            checks=_readiness_checks(parts),
        )


@asynccontextmanager
async def open_reconciler(settings: Settings) -> AsyncIterator[Reconciler]:
    """A reconciler with connections of its own, until the context ends; raises as :func:`open_parts` does."""
    assert settings.database_url is not None  # holdfast.servers has filled it in
    async with open_parts(settings, RECONCILER_POOL) as parts:
        # Leases are a session's: nothing else may use it, and a pool that is used up must not keep us from it.
        session = open_database(settings.database_url, pool_size=1, application_name="holdfast leases")
        try:
            yield Reconciler(make_equipment(parts, settings), PartitionLeases(session, parts.kernel.partitions))
        finally:
            await session.dispose()


def make_equipment(parts: Parts, settings: Settings) -> Equipment:
    """What the reconciler's duties work with."""
    return Equipment(
        kernel=parts.kernel,
        database=parts.database,
        catalog=parts.catalog,
        loader=parts.loader,
        drain=drain_with(parts.settlement._drain_partition),
        repair=audit_with(parts.kernel, parts.bookings),
        archive_after_s=settings.archive_after_s,
    )


@asynccontextmanager
async def _open_verifier(settings: Settings) -> AsyncIterator[TokenVerifier]:
    async with AsyncExitStack() as stack:
        sources: list[KeySource] = [SharedSecret(jwt_secret(settings))]
        if settings.jwks_url is not None:
            client = await stack.enter_async_context(httpx2.AsyncClient())
            sources.append(JwksKeys(fetch_from(settings.jwks_url, client)))
        yield TokenVerifier(sources, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


async def _open_transport(url: str) -> Transport:
    try:
        return await open_transport(url)
    except ValueError as error:  # names the part of the URL that is wrong, and repeats no password
        raise SettingsError(f"REDIS_URL: {error}") from error


def _readiness_checks(parts: Parts) -> Mapping[str, ReadinessCheck]:
    transport = parts.kernel.transport

    async def postgres() -> None:
        await fetch_rows(parts.database, sa.select(sa.literal(1)))

    async def migrations() -> None:
        if await current_revision(parts.database) != HEAD:
            raise NotMigrated("the database is not at this version's revision")

    async def scripts() -> None:
        for node in transport.nodes():
            for name in lua.names():
                script = lua.load(name)
                (known,) = await transport.command("SCRIPT", "EXISTS", script.sha, node=node)
                if not known:
                    await transport.command("SCRIPT", "LOAD", script.source, node=node)

    return {"redis": parts.reservations.ping, "postgres": postgres, "scripts": scripts, "migrations": migrations}
