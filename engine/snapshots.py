"""The states of events that this process has seen last, each read once for all who ask, and the answers made of them.

Whoever asks is told what held at some moment after they asked: a state that is kept is never given out on trust, but
after a script has said that nothing has changed since (``SAME``). All who come while such a check is under way share
the next one, so that a crowd costs a check for every round trip and not for every reader. What a read shows is then
never older than the read, in whichever process a change was made: nobody misses their own hold.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import msgspec

from engine import figures
from engine.availability import Snapshot
from engine.events import SellableEvent
from engine.kernel import Kernel
from engine.off_sale import NOTHING, OffSale, off_sale
from engine.refusals import claim_refusal

EVENTS_MAX = 1_000  # states kept
BYTES_MAX = 64 << 20  # of their bitmaps, fields and answers; one state is kept whatever its size
ANSWERS_MAX = 64  # kept of one state: ranges of legs and sizes of parties are for anybody to think of
FIELD_BYTES = 160  # of a field in a dictionary, beside what its name and value say


class Encoded(msgspec.Struct, frozen=True):
    """The bytes of an answer, and what they are told by: a digest of them, as a strong entity tag.

    Equal tags are equal bytes, whichever process made them and whatever became of Redis between.
    """

    body: bytes
    tag: bytes


class View:
    """An event's state at one change, and the answers made of it: each once, however many ask for it.

    *before* is an earlier state of the same layout: what is known of it need not be worked out again.
    """

    __slots__ = ("_answers", "_knows_off_sale", "_off_sale", "_weigh", "byte_count", "event", "snapshot", "tag")

    def __init__(
        self,
        event: SellableEvent,
        snapshot: Snapshot,
        tag: bytes,
        weigh: Callable[["View", int], None],
        *,
        before: "View | None" = None,
    ) -> None:
        self.event = event
        self.snapshot = snapshot
        self.tag = tag
        self._answers: dict[Hashable, Encoded] = {}
        self._weigh = weigh
        self._off_sale: OffSale = NOTHING if before is None else before._off_sale
        self._knows_off_sale = False
        self.byte_count = len(snapshot.held) + len(snapshot.sold)
        self.byte_count += _weight_of(snapshot.fields) + self._off_sale.byte_count

    @property
    def off_sale(self) -> OffSale:
        """Which numbered seats are off sale; worked out when it is first asked for."""
        if not self._knows_off_sale:
            before = self._off_sale
            self._off_sale, self._knows_off_sale = off_sale(self.snapshot.fields, self.event.layout, before), True
            self._weigh(self, self._off_sale.byte_count - before.byte_count)
        return self._off_sale

    def answer(self, key: Hashable, make: Callable[[], bytes]) -> Encoded:
        """What *make* makes of this state, or has made of it before under the same *key*."""
        encoded = self._answers.get(key)
        if encoded is None:
            body = make()
            encoded = Encoded(body, b'"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode("ascii"))
            if len(self._answers) < ANSWERS_MAX and self.byte_count + len(body) <= BYTES_MAX:
                self._answers[key] = encoded
                self._weigh(self, len(body))
        return encoded


class _Kept:
    """What is kept of one event; ``running`` is a check under way, ``waiting`` the one that begins after it."""

    __slots__ = ("running", "view", "waiting")

    def __init__(self) -> None:
        self.view: View | None = None
        self.running: asyncio.Task[View] | None = None
        self.waiting: asyncio.Task[View] | None = None


class Snapshots:
    """Views by event, with bitmaps and without; least recently used first to go."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._kept: OrderedDict[tuple[str, bool], _Kept] = OrderedDict()
        self._byte_count = 0

    async def look(self, event: SellableEvent, *, with_cells: bool) -> View:
        """The event's state at a moment not before this call.

        Raises:
            EventNotFound: Its state is not in Redis, and the ledger has none.
            StoreUnavailable: Redis does not answer, neither to this check nor to the one before.
        """
        key = (event.event.id, with_cells)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept()
            self._make_room()
        else:
            self._kept.move_to_end(key)
        if kept.waiting is None:
            running = kept.running if kept.running is not None and not kept.running.done() else None
            kept.waiting = asyncio.create_task(self._check(kept, event, running, with_cells=with_cells))
            kept.waiting.add_done_callback(_retrieve)
        else:
            figures.SNAPSHOTS.add("shared")
        return await asyncio.shield(kept.waiting)

    async def _check(
        self, kept: _Kept, event: SellableEvent, before: "asyncio.Task[View] | None", *, with_cells: bool
    ) -> View:
        """Ask whether anything has changed, once the check *before* has come to its end.

        A Redis that did not answer that one is not waited for again: whoever waits here is told within a second, too.
        """
        try:
            if before is not None:
                await before
        finally:
            kept.running, kept.waiting = kept.waiting, None
        view = kept.view if kept.view is not None and kept.view.event.layout is event.layout else None
        known = view.tag if view is not None else b""
        reply = await self._kernel.run("snapshot_event", event, [b"1" if with_cells else b"0", known])
        if reply[0] == b"SAME":
            assert view is not None
            figures.SNAPSHOTS.add("same")
            return view
        if reply[0] != b"SNAPSHOT":
            raise claim_refusal(reply, [event])
        figures.SNAPSHOTS.add("read")
        fresh = self._view(event, reply, view)
        self._replace(kept, fresh)
        return fresh

    def _view(self, event: SellableEvent, reply: list[Any], before: View | None) -> View:
        seq, epoch, status, next_release_ms, tag, fields, *cells = reply[1:]
        counters = dict(zip(fields[::2], fields[1::2], strict=True))
        snapshot = Snapshot(seq, int(epoch), status.decode(), next_release_ms, counters, *cells)
        return View(event, snapshot, tag, self._weigh, before=before)

    def _replace(self, kept: _Kept, fresh: View) -> None:
        old, kept.view = kept.view, fresh
        if not self._is_kept(fresh):  # it had to go while it was being read
            return
        self._byte_count += fresh.byte_count - (old.byte_count if old is not None else 0)
        self._make_room()

    def _weigh(self, view: View, count: int) -> None:
        view.byte_count += count
        if self._is_kept(view):
            self._byte_count += count
            self._make_room()

    def _is_kept(self, view: View) -> bool:
        return any(
            (kept := self._kept.get((view.event.event.id, with_cells))) is not None and kept.view is view
            for with_cells in (False, True)
        )

    def _make_room(self) -> None:
        while len(self._kept) > 1 and (len(self._kept) > EVENTS_MAX or self._byte_count > BYTES_MAX):
            _, oldest = self._kept.popitem(last=False)
            self._byte_count -= oldest.view.byte_count if oldest.view is not None else 0


def _weight_of(fields: Mapping[bytes, bytes]) -> int:
    """Bytes of a state's fields: counters are short, but a block's mark has up to a thousand seats in it."""
    return FIELD_BYTES * len(fields) + sum(map(len, fields)) + sum(map(len, fields.values()))


def _retrieve(check: "asyncio.Task[View]") -> None:
    if not check.cancelled():
        check.exception()  # whoever still waits for it has it
