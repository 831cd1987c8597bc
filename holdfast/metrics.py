"""``/metrics``: the figures of all processes of a ``serve``, and the state of the installation, for Prometheus.

Figures are counted in memory (:mod:`engine.figures`) and left on a board once a second
(:mod:`holdfast.figures_board`); whichever process is scraped adds up what all have left. What concerns the installation
rather than a process (journal, reconcilers) is asked for at the scrape, within a bound; what cannot be learned is left
out, never told from memory.
"""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from api.services import Scrape, Scraped
from engine.backlog import Backlog
from engine.figures import read_figures, resume_figures
from engine.time_limits import give_up_after
from holdfast.figures_board import ProcessReport, Seat
from persistence.publishing.letters import OutboxState

PUBLISH_EVERY_S = 1.0  # what a killed process has counted since is lost; a write is half a millisecond
ASKING_MAX_S = 1.0  # for journal and reconcilers together: Prometheus waits, but a server that is away is no reason to
HEAD_MAX = 8 * 1024  # of a request to a port that serves nothing but metrics
HEAD_WAIT_S = 5.0

logger = structlog.get_logger("holdfast.metrics")


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where states are asked for: of this process, and of the installation."""

    gauges: Callable[[], Mapping[str, float]]
    backlog: Callable[[], Coroutine[Any, Any, Backlog]]
    reconcilers: Callable[[], Coroutine[Any, Any, int]]
    outbox: Callable[[], Coroutine[Any, Any, OutboxState]]


class Figures:
    """The figures of this process, and through its seat those of its siblings."""

    def __init__(self, sources: Sources, seat: Seat | None, *, process: str = "worker-0") -> None:
        self._sources = sources
        self._seat = seat
        self._process = process if seat is None else seat.process

    @asynccontextmanager
    async def published(self) -> AsyncIterator[None]:
        """Leave the figures on the board, again and again, until the context ends."""
        if self._seat is None:
            yield
            return
        if (predecessor := self._seat.board.read(self._seat.slot)) is not None:
            resume_figures(predecessor.figures)
        publishing = asyncio.create_task(self._publish_for_ever(), name="publish figures")
        try:
            yield
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            self._seat.board.write(self._seat.slot, self._report(ended=True))

    async def scrape(self, accept: str) -> Scraped:
        """Everything, in the format that *accept* asks for."""
        own = self._report()
        if self._seat is None:
            reports = [own]
        else:
            self._seat.board.write(self._seat.slot, own)
            reports = self._seat.board.read_all()
        states = await self._installation_states()
        exposition = await asyncio.to_thread(importlib.import_module, "holdfast.exposition")
        scraped: Scraped = exposition.render(reports, states, accept=accept)
        return scraped

    async def _publish_for_ever(self) -> None:
        assert self._seat is not None
        while True:
            self._seat.board.write(self._seat.slot, self._report())
            await asyncio.sleep(PUBLISH_EVERY_S)

    def _report(self, *, ended: bool = False) -> ProcessReport:
        gauges = {} if ended else dict(self._sources.gauges())
        return ProcessReport(self._process, 0.0 if ended else time.monotonic(), gauges, read_figures())

    async def _installation_states(self) -> dict[str, float]:
        backlog, reconcilers, outbox = await asyncio.gather(
            _asked(self._sources.backlog, "backlog"),
            _asked(self._sources.reconcilers, "reconcilers"),
            _asked(self._sources.outbox, "outbox"),
        )
        values: dict[str, float] = {}
        if backlog is not None:
            values["holdfast_journal_entries"] = backlog.entries
            values["holdfast_journal_oldest_seconds"] = backlog.oldest_age_s or 0.0
            values["holdfast_dead_letters"] = backlog.dead_letters
        if reconcilers is not None:
            values["holdfast_reconcilers"] = reconcilers
        if outbox is not None:
            values["holdfast_outbox_oldest_seconds"] = outbox.oldest_s
            values["holdfast_outbox_waiting"] = outbox.waiting
            values["holdfast_outbox_dead"] = outbox.dead
        return values


def process_figures(process: str) -> Figures:
    """The figures of a process that neither shares a board nor knows the state of the installation."""

    async def unknown() -> Any:
        raise LookupError("not known here")

    return Figures(Sources(gauges=dict, backlog=unknown, reconcilers=unknown, outbox=unknown), None, process=process)


@asynccontextmanager
async def serve_metrics(
    port: int, scrape: Scrape | None = None, *, host: str = "127.0.0.1", process: str = "reconciler"
) -> AsyncIterator[int]:
    """Answer every request to *port* with the figures, until the context ends; gives the port listened on.

    For processes without an API. It needs no more of HTTP than the end of a request's head.
    """
    answer = scrape if scrape is not None else process_figures(process).scrape

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_WAIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                scraped = await answer(_accepted(head))
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
                    % (scraped.content_type, len(scraped.body), scraped.body)
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks like this gets no answer
        finally:
            writer.close()

    server = await asyncio.start_server(serve_one, host, port, limit=HEAD_MAX)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _asked(ask: Callable[[], Coroutine[Any, Any, Any]], what: str) -> Any | None:
    """The answer, or ``None`` when there is none in time."""
    try:
        return await give_up_after(ASKING_MAX_S, ask())
    except Exception as error:  # whatever it is, the other figures are wanted all the more
        logger.debug("not known at the scrape", what=what, error=type(error).__name__)
        return None


def _accepted(head: bytes) -> str:
    """The ``Accept`` header of a request's head."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"accept":
            return value.strip().decode("latin-1")
    return ""
