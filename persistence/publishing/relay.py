"""The relay: from the outbox to its sinks, each of which has a courier of its own, so that none waits for another."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.errors import Unavailable
from engine.kernel import Kernel
from persistence.publishing.attempt import Attempt, Patience
from persistence.publishing.courier import Courier, Pace
from persistence.publishing.envelope import OutboxRow, envelope, message_id
from persistence.publishing.event_types import ALL_OF_BOOKINGS, STREAM_LENGTH
from persistence.publishing.queue import Queue
from persistence.publishing.sinks import Sink, Sinks
from persistence.publishing.stream import STREAM_AT_ONCE_MAX, StreamSender
from persistence.publishing.webhooks import AT_ONCE_MAX, SEND_TIMEOUT_S, WebhookSender

SINKS_KNOWN_S = 2.0  # a sink that was added, changed or taken away is noticed after this
FAN_OUTS_MAX = 20  # of one step: 20 000 rows, a second or so
TROUBLE_PAUSE_S = 1.0  # of a courier that Postgres did not answer
WEBHOOK_CLAIMED = 4 * AT_ONCE_MAX  # a slow endpoint keeps these for four time-outs at most
STREAM_SEND_S = 5.0  # the kernel's own bounds are below this

logger = structlog.get_logger("holdfast.publishing")


class RelayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an installation publishes; without ``stream`` there is none."""

    stream: str | None = None
    stream_length: int = STREAM_LENGTH
    stream_types: tuple[str, ...] = ALL_OF_BOOKINGS
    allow_private: bool = False
    keep_days: int = 14
    send_timeout_s: float = SEND_TIMEOUT_S
    patience: Patience = Patience()


class Relay:
    """Several may be at work, in as many processes. Making one connects to nothing; :meth:`close` stops it."""

    def __init__(self, database: AsyncEngine, kernel: Kernel, sinks: Sinks, options: RelayOptions) -> None:
        self.queue = Queue(database)
        self.options = options
        self._kernel = kernel
        self._sinks = sinks
        self._posts: dict[int, _Post] = {}
        self._known_until = 0.0
        self._stream_ensured = False
        self._lost: dict[int, Sink] = {}

    @property
    def lost(self) -> Sequence[Sink]:
        """Sinks that nothing can be told because their secrets are lost; what is for them waits."""
        return list(self._lost.values())

    async def step(self) -> int:
        """Look what there is to do, queue what is new, and ring for the couriers; returns how many events were queued.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        await self._learn_sinks()
        look = await self.queue.look()
        queued, due = 0, set(look.due)
        for _ in range(FAN_OUTS_MAX if look.unpublished else 0):
            count, sink_ids = await self.queue.fan_out()
            queued += count
            for sink_id in due | set(sink_ids):
                self._ring(sink_id)
            due = set()
            if not count:
                break
        for sink_id in due:
            self._ring(sink_id)
        return queued

    async def run_once(self, *, within_s: float) -> int:
        """Queue all that is new, and tell what can be told in *within_s* seconds; returns how many events were queued.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        stop_at, queued = time.monotonic() + within_s, 0
        try:
            while time.monotonic() < stop_at:
                queued += await self.step()
                await asyncio.sleep(0.01)
                if not any(post.busy for post in self._posts.values()):
                    look = await self.queue.look()
                    rests = {sink_id for sink_id, post in self._posts.items() if post.courier.rests_s}
                    if not look.unpublished and rests.union(self._lost).issuperset(look.due):
                        break
        finally:
            await self.close()
        return queued

    async def close(self) -> None:
        """Stop all couriers; what they had claimed is given back."""
        posts, self._posts = list(self._posts.values()), {}
        self._known_until = 0.0
        await asyncio.gather(*(post.close() for post in posts))

    def _ring(self, sink_id: int) -> None:
        if (post := self._posts.get(sink_id)) is not None:
            post.bell.set()

    async def _learn_sinks(self) -> None:
        """Have a courier for every sink that is enabled, as it is configured now."""
        if time.monotonic() < self._known_until:
            return
        if not self._stream_ensured:
            await self._sinks.ensure_stream(self.options.stream, self.options.stream_types)
            self._stream_ensured = True
        enabled = {sink.id: sink for sink in await self._sinks.all() if sink.disabled_at is None}
        wanted = {sink_id: sink for sink_id, sink in enabled.items() if sink.lost is None}
        self._note_lost({sink_id: sink for sink_id, sink in enabled.items() if sink.lost is not None})
        for sink_id, post in list(self._posts.items()):
            if post.courier.gone or post.courier.sink != wanted.get(sink_id):
                await self._posts.pop(sink_id).close()
        for sink_id, sink in wanted.items():
            if sink_id not in self._posts:
                self._posts[sink_id] = self._open_post(sink)
        self._known_until = time.monotonic() + SINKS_KNOWN_S

    def _note_lost(self, lost: dict[int, Sink]) -> None:
        """Say of each once that it is lost, and once that it is not any more."""
        for sink_id in lost.keys() - self._lost.keys():
            logger.error("webhook cannot be signed", sink=lost[sink_id].name, reason=lost[sink_id].lost)
        for sink_id in self._lost.keys() - lost.keys():
            logger.info("webhook can be signed again, or is gone", sink=self._lost[sink_id].name)
        self._lost = lost

    def _open_post(self, sink: Sink) -> "_Post":
        options = self.options
        send: Callable[[OutboxRow], Awaitable[Attempt]]
        if sink.kind == "stream":
            stream = StreamSender(self._kernel, sink.target, length=options.stream_length)
            send = _to_stream(stream)
            pace = Pace(claimed=STREAM_AT_ONCE_MAX, at_once=STREAM_AT_ONCE_MAX, send_s=STREAM_SEND_S)
            close = stream.close
        else:
            webhook = WebhookSender(
                sink.target, sink.secrets, allow_private=options.allow_private, timeout_s=options.send_timeout_s
            )
            send = _to_webhook(webhook)
            pace = Pace(claimed=WEBHOOK_CLAIMED, at_once=AT_ONCE_MAX, send_s=options.send_timeout_s)
            close = webhook.close
        return _Post(Courier(sink, self.queue, self._sinks, send, pace=pace, patience=options.patience), close)


def _to_stream(stream: StreamSender) -> Callable[[OutboxRow], Awaitable[Attempt]]:
    return lambda row: stream.send(message_id(row), row.type, envelope(row))


def _to_webhook(webhook: WebhookSender) -> Callable[[OutboxRow], Awaitable[Attempt]]:
    return lambda row: webhook.send(message_id(row), envelope(row))


class _Post:
    """A courier at work, until it is closed."""

    def __init__(self, courier: Courier, close_sender: Callable[[], Awaitable[None]]) -> None:
        self.courier = courier
        self.bell = asyncio.Event()
        self.busy = False
        self._close_sender = close_sender
        self._task = asyncio.create_task(self._work_for_ever(), name=f"courier of {courier.sink.name}")

    async def close(self) -> None:
        """Stop, within a few seconds."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._close_sender()

    async def _work_for_ever(self) -> None:
        while True:
            await self.bell.wait()
            self.bell.clear()
            self.busy = True
            try:
                while await self.courier.round():
                    pass
            except Exception as error:  # whatever it is, giving up would not help
                self._note(error)
                await asyncio.sleep(TROUBLE_PAUSE_S)
            finally:
                self.busy = False

    def _note(self, error: Exception) -> None:
        if isinstance(error, Unavailable | TimeoutError):
            logger.warning("courier is held up", sink=self.courier.sink.name, error=type(error).__name__)
        else:  # foreseen by nobody: a bug, or an event that cannot be told
            logger.error("courier has failed", sink=self.courier.sink.name, exc_info=error)
