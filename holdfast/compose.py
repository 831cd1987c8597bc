"""Where the layers meet: from settings to services, and an orderly end."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version

import httpx2
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from api.clients import Proxies
from api.identity import KeySource, SharedSecret, TokenVerifier
from api.jwks import JwksKeys, fetch_from
from api.live import LiveMaps
from api.services import Info, Services
from engine.admission_queue import AdmissionQueue
from engine.backlog import BacklogWatch
from engine.catalog import Catalog
from engine.draining import Drainer
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.loader import EventLoader
from engine.once import OnceStore
from engine.place_changes import PlaceChanges
from engine.rate_limits import RateLimiter
from engine.release import free_booking
from engine.reservations import Reservations
from engine.settlement import Settlement
from engine.store_checks import require_fit_store
from engine.terms import Terms
from engine.verification import Verification
from engine.waitlist import Line
from holdfast.admission import Admission
from holdfast.figures_board import Seat
from holdfast.metrics import Figures, Sources, serve_metrics
from holdfast.payments.providers import open_providers
from holdfast.reaching_redis import open_redis
from holdfast.readiness import NotMigrated, readiness_checks
from holdfast.services.inventory import HttpInventory
from holdfast.services.outbound import ServiceClient
from holdfast.services.pricing import HttpPricing
from holdfast.settings import Settings, SettingsError, data_key, data_key_origin, data_keys, jwt_secrets
from holdfast.settings import jwt_secret as jwt_secret  # the demo knows it from here
from persistence.aftercare import Aftercare
from persistence.audit_journal import JournalWatch
from persistence.blocks import Blocks
from persistence.booking_desk import BookingDesk
from persistence.bookings import Bookings
from persistence.canary import DataKeyDiffers, require_data_key
from persistence.checkout import Checkout
from persistence.database import open_database
from persistence.difference_charges import DifferenceCharges
from persistence.erasure import Eraser
from persistence.events import Events
from persistence.installation import ensure_partitions
from persistence.ledger import PostgresLedger
from persistence.oversight import Oversight, repair_with
from persistence.partition_leases import PartitionLeases
from persistence.place_desk import PlaceDesk
from persistence.publishing.attempt import Patience
from persistence.publishing.letters import OutboxState, outbox_state
from persistence.publishing.relay import Relay, RelayOptions
from persistence.publishing.sinks import Sinks
from persistence.reconciler import Reconciler
from persistence.reconciling.equipment import Equipment
from persistence.repair import EventRepair, repair_event
from persistence.revision import HEAD, current_revision
from persistence.sealing import AesSealer
from persistence.verification import LedgerAuditor
from persistence.waitlist import Waitlist

COMMIT_CONNECTIONS = 2  # a batch of callers, or two pages of the journal, are written at a time


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The connections to Postgres beside those of the group commit."""

    size: int = 8
    statement_timeout_ms: int = 2_000


API_POOL = Pool()
# Audits and rebuilds read much and hurry little. Five audits, a repair and three loads at a time, and
# whatever is short beside.
RECONCILER_POOL = Pool(size=12, statement_timeout_ms=5_000)


class OutboundServices(msgspec.Struct, frozen=True, kw_only=True):
    """The services of others that this process asks, where they are configured."""

    pricing: ServiceClient | None = None
    inventory: ServiceClient | None = None

    def terms(self, reservations: Reservations) -> Terms:
        """Bookings on what these services say."""
        return Terms(
            reservations,
            pricing=None if self.pricing is None else HttpPricing(self.pricing),
            inventory=None if self.inventory is None else HttpInventory(self.inventory),
        )

    def gauges(self) -> dict[str, float]:
        """Whether they are left alone."""
        clients = {"pricing": self.pricing, "inventory": self.inventory}
        return {
            f"holdfast_{name}_circuit_open": float(client.breaker.is_open)
            for name, client in clients.items()
            if client is not None
        }


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is made of; commands that look behind the API use these.

    ``kernel`` waits for a slow Redis, as work in the background may; ``front`` is the one of requests, which are told
    within a second that it is away.
    """

    database: AsyncEngine
    kernel: Kernel
    front: Kernel
    catalog: Catalog
    loader: EventLoader
    events: Events
    bookings: Bookings
    ledger: PostgresLedger
    settlement: Settlement
    drainer: Drainer
    journals: JournalWatch
    reservations: Reservations
    waitlist: Waitlist
    admission_queue: AdmissionQueue
    checkout: Checkout
    oversight: Oversight
    outbound: OutboundServices
    terms: Terms
    eraser: Eraser
    desk: BookingDesk
    places: PlaceDesk
    aftercare: Aftercare
    blocks: Blocks
    sinks: Sinks


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
        transport = await open_redis(settings.redis_url)
        stack.push_async_callback(transport.aclose)
        await require_fit_store(transport)
        sealer = AesSealer(data_keys(settings))
        await _require_data_key(database, sealer, settings)
        front = Kernel(transport, partitions=partitions)
        kernel = front.patient()
        events, bookings = Events(database), Bookings(database, sealer)
        catalog = Catalog(events)
        loader = EventLoader(kernel, events, catalog, keeps_history=settings.hold_history_days > 0)
        front.load_events_with(loader.load)
        kernel.load_events_with(loader.load)
        # Commits have connections of their own: whatever else asks Postgres, a 201 does not wait in line for it.
        commits = open_database(settings.database_url, pool_size=COMMIT_CONNECTIONS)
        stack.push_async_callback(commits.dispose)
        ledger = PostgresLedger(database, sealer, commits=commits)
        stack.push_async_callback(ledger.close)
        journals = JournalWatch(kernel)
        verification = Verification(
            LedgerAuditor(database, kernel, bookings, loader, journals), wait_s=settings.confirm_timeout_s
        )
        stack.push_async_callback(verification.close)
        settlement = Settlement(kernel, ledger, loader, verification)
        stack.push_async_callback(settlement.close)
        drainer = Drainer(kernel, settlement, catalog, ledger)
        loader.drain_with(drainer.drain_now)
        oversight = Oversight(kernel, bookings, catalog, database, repair_with(kernel, bookings, loader, journals))
        stack.push_async_callback(oversight.close)
        reservations = Reservations(
            front,
            catalog,
            loader,
            ledger,
            sealer,
            settlement,
            verification,
            confirm_timeout_s=settings.confirm_timeout_s,
            journal_bytes_max=settings.journal_max_bytes,
        )
        outbound = await stack.enter_async_context(_open_outbound(settings))
        terms = outbound.terms(reservations)
        providers = await stack.enter_async_context(open_providers(settings))
        checkout = Checkout(
            database, sealer, reservations, bookings, providers, confirm_timeout_s=settings.confirm_timeout_s
        )
        stack.push_async_callback(checkout.close)
        free = partial(free_booking, front, catalog)
        desk = BookingDesk(
            database,
            sealer,
            free=free,
            settle=checkout.settle_booking,
            find_accepted=partial(reservations.find_booking, customer_id=None),
        )
        aftercare = Aftercare(database, desk)
        stack.push_async_callback(aftercare.close)
        yield Parts(
            database=database,
            kernel=kernel,
            front=front,
            catalog=catalog,
            loader=loader,
            events=events,
            bookings=bookings,
            ledger=ledger,
            settlement=settlement,
            drainer=drainer,
            journals=journals,
            oversight=oversight,
            waitlist=Waitlist(database, Line(front, catalog)),
            admission_queue=AdmissionQueue(front, catalog, secrets=data_keys(settings)),
            reservations=reservations,
            checkout=checkout,
            outbound=outbound,
            terms=terms,
            eraser=Eraser(database, sealer),
            desk=desk,
            places=PlaceDesk(
                database,
                sealer,
                desk,
                catalog,
                PlaceChanges(front, verification),
                price=terms.reprice,
                charger=DifferenceCharges(database, checkout, time_limit_s=settings.confirm_timeout_s),
            ),
            aftercare=aftercare,
            blocks=Blocks(database, sealer, events, reservations, free=free),
            sinks=Sinks(database, sealer),
        )


@asynccontextmanager
async def open_services(
    settings: Settings, seat: Seat | None = None, admission: Admission | None = None
) -> AsyncIterator[Services]:
    """Everything the API needs, until the context ends.

    With a *seat* on the board of its ``serve``, the process tells its figures there, and those of all that have one;
    those of *admission*, too, if it has that.
    """
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(settings))
        verifier = await stack.enter_async_context(_open_verifier(settings))
        backlog = BacklogWatch(parts.front)
        live = LiveMaps(parts.reservations)
        stack.push_async_callback(live.close)
        figures = Figures(_sources(parts, backlog, live, admission), seat)
        await stack.enter_async_context(figures.published())
        yield Services(
            reservations=parts.reservations,
            live=live,
            events=parts.events,
            bookings=parts.bookings,
            waitlist=parts.waitlist,
            admission_queue=parts.admission_queue,
            checkout=parts.checkout,
            desk=parts.desk,
            places=parts.places,
            aftercare=parts.aftercare,
            blocks=parts.blocks,
            oversight=parts.oversight,
            terms=parts.terms,
            eraser=parts.eraser,
            once=OnceStore(parts.front),
            verifier=verifier,
            info=Info(name="holdfast", version=version("holdfast"), partitions=parts.front.partitions),
            checks=readiness_checks(parts.front, parts.database, parts.oversight, backlog),
            scrape=figures.scrape,
            limiter=_limiter(settings, parts.front),
            proxies=Proxies(settings.trusted_proxies),
        )


def _limiter(settings: Settings, kernel: Kernel) -> RateLimiter | None:
    if settings.rate_limit is None and settings.rate_limit_by_address is None:
        return None
    return RateLimiter(
        kernel, secret=data_key(settings), by_caller=settings.rate_limit, by_address=settings.rate_limit_by_address
    )


def _sources(
    parts: Parts, backlog: BacklogWatch, live: LiveMaps | None = None, admission: Admission | None = None
) -> Sources:
    """Where the states come from that ``/metrics`` tells beside what was counted."""

    def gauges() -> dict[str, float]:
        links = parts.front.transport.reports()
        return {
            "holdfast_redis_links": len(links),
            "holdfast_redis_links_up": sum(link.connected for link in links),
            "holdfast_redis_waiting": sum(link.waiting for link in links),
            "holdfast_redis_unanswered": sum(link.unanswered for link in links),
            "holdfast_commit_waiting": parts.ledger.waiting,
            **({} if live is None else {"holdfast_stream_listeners": live.listener_count}),
            **({} if admission is None else admission.gauges()),
            **parts.outbound.gauges(),
        }

    async def reconcilers() -> int:
        return sum(seen.live for seen in await parts.oversight.reconcilers())

    async def outbox() -> OutboxState:
        return await outbox_state(parts.database)

    return Sources(gauges=gauges, backlog=backlog.read, reconcilers=reconcilers, outbox=outbox)


@asynccontextmanager
async def open_reconciler(
    settings: Settings, seat: Seat | None = None, *, metrics_port: int | None = None
) -> AsyncIterator[Reconciler]:
    """A reconciler with connections of its own, until the context ends; raises as :func:`open_parts` does.

    Its figures are told on the board of the ``serve`` that it has a *seat* of, or at *metrics_port*.
    """
    assert settings.database_url is not None  # holdfast.servers has filled it in
    async with open_parts(settings, RECONCILER_POOL) as parts:
        # Leases are a session's: nothing else may use it, and a pool that is used up must not keep us from it.
        session = open_database(settings.database_url, pool_size=1, application_name="holdfast leases")
        figures = Figures(_sources(parts, BacklogWatch(parts.kernel)), seat, process="reconciler")
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(figures.published())
                if metrics_port is not None:
                    await stack.enter_async_context(serve_metrics(metrics_port, figures.scrape))
                yield Reconciler(make_equipment(parts, settings), PartitionLeases(session, parts.kernel.partitions))
        finally:
            await session.dispose()


def make_equipment(parts: Parts, settings: Settings) -> Equipment:
    """What the reconciler's duties work with."""

    async def repair(event: SellableEvent, *, dry_run: bool = False) -> EventRepair:
        done = await repair_event(
            parts.kernel, parts.bookings, parts.loader, event, dry_run=dry_run, journals=parts.journals
        )
        # A dry run leaves everything as it is; which of it a repair could not put right, only a repair can tell.
        return msgspec.structs.replace(done, repaired=done.found, unresolved=()) if dry_run else done

    return Equipment(
        kernel=parts.kernel,
        database=parts.database,
        catalog=parts.catalog,
        loader=parts.loader,
        waitlist=Waitlist(parts.database, Line(parts.kernel, parts.catalog)),
        drain=parts.drainer.drain,
        repair=repair,
        desk=parts.desk,
        aftercare=parts.aftercare,
        blocks=parts.blocks,
        archive_after_s=settings.archive_after_s,
        history_days=settings.hold_history_days,
        payments=parts.checkout.store,
        settle=parts.checkout.settler.settle,
        relay=Relay(parts.database, parts.kernel, parts.sinks, relay_options(settings)),
    )


def relay_options(settings: Settings) -> RelayOptions:
    """How the outbox is published."""
    return RelayOptions(
        stream=settings.stream,
        stream_length=settings.stream_length,
        stream_types=settings.stream_types,
        allow_private=settings.webhooks_allow_private,
        keep_days=settings.outbox_days,
        patience=Patience(retry_for_s=settings.webhooks_retry_hours * 3600.0),
    )


@asynccontextmanager
async def _open_verifier(settings: Settings) -> AsyncIterator[TokenVerifier]:
    async with AsyncExitStack() as stack:
        sources: list[KeySource] = [SharedSecret(*jwt_secrets(settings))]
        if settings.jwks_url is not None:
            client = await stack.enter_async_context(httpx2.AsyncClient())
            sources.append(JwksKeys(fetch_from(settings.jwks_url, client)))
        yield TokenVerifier(sources, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


@asynccontextmanager
async def _open_outbound(settings: Settings) -> AsyncIterator[OutboundServices]:
    async with AsyncExitStack() as stack:

        def client(name: str, url: str | None, timeout_s: float) -> ServiceClient | None:
            if url is None:
                return None
            opened = ServiceClient(name, url, timeout_s=timeout_s)
            stack.push_async_callback(opened.aclose)
            return opened

        yield OutboundServices(
            pricing=client("pricing", settings.pricing_url, settings.pricing_timeout_s),
            inventory=client("inventory", settings.inventory_url, settings.inventory_timeout_s),
        )


async def _require_data_key(database: AsyncEngine, sealer: AesSealer, settings: Settings) -> None:
    try:
        await require_data_key(database, sealer)
    except DataKeyDiffers as error:
        raise SettingsError(f"{data_key_origin(settings)}: {error}") from error
