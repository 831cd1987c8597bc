"""Which server answers, and how it is noticed that another one has taken its place.

A connection that breaks and comes back may lead to a server that lost its memory: restarted, failed over, restored.
Every connection therefore begins with one ``INFO``; a ``run_id`` or replication id that differs from what was known
for a slot is reported before any waiting command is sent.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from redis.exceptions import InvalidResponse

SLOT_COUNT = 16384

SlotRange = tuple[int, int]
"""First and last slot, both included."""

ALL_SLOTS: tuple[SlotRange, ...] = ((0, SLOT_COUNT - 1),)


class NodeAddress(msgspec.Struct, frozen=True, order=True):
    """Where a server listens: host and TCP port, or the path of a unix socket with port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServerIdentity(msgspec.Struct, frozen=True):
    """One life of one server: both ids are new after a restart, the second also after a promotion."""

    run_id: str
    replication_id: str


class ServerReport(msgspec.Struct, frozen=True):
    """What a server says of itself at the start of a connection."""

    identity: ServerIdentity
    role: str
    """``master`` or ``slave``, in the server's own words."""
    loading: bool
    """It is still reading its data from disk and refuses commands."""


class LinkReport(msgspec.Struct, frozen=True):
    """How things stand with the connection to one server.

    Commands not yet sent, commands sent without a reply, and how often anything has come over this connection.
    """

    connected: bool
    waiting: int
    unanswered: int
    heard_count: int


class ServerChange(msgspec.Struct, frozen=True):
    """Slots that were served by *old* are now served by *new*: what it remembers of them must be audited."""

    node: NodeAddress
    old: ServerIdentity
    new: ServerIdentity
    slots: tuple[SlotRange, ...]
    """The slots concerned: all of them on a single server, those that changed hands in a cluster."""

    def covers(self, slot: int) -> bool:
        return any(first <= slot <= last for first, last in self.slots)


class ServerWatch:
    """Remembers the identity behind every slot, and calls back when it changes."""

    def __init__(self) -> None:
        self._known: list[ServerIdentity | None] = [None] * SLOT_COUNT
        self._callbacks: list[Callable[[ServerChange], None]] = []

    def on_change(self, callback: Callable[[ServerChange], None]) -> None:
        self._callbacks.append(callback)

    def observe(self, node: NodeAddress, identity: ServerIdentity, slots: Iterable[SlotRange] = ALL_SLOTS) -> None:
        """Note that *identity* serves *slots*.

        A callback that raises keeps the change unnoted, so that it is reported again with the next connection: a
        change nobody could react to must not pass as known.
        """
        ranges = tuple(slots)
        previous: dict[ServerIdentity, list[int]] = {}
        for first, last in ranges:
            for slot in range(first, last + 1):
                known = self._known[slot]
                if known is not None and known != identity:
                    previous.setdefault(known, []).append(slot)
        for old, changed in previous.items():
            change = ServerChange(node=node, old=old, new=identity, slots=slot_ranges(changed))
            for callback in self._callbacks:
                callback(change)
        for first, last in ranges:
            self._known[first : last + 1] = [identity] * (last + 1 - first)


def parse_report(info: Any) -> ServerReport:
    """Read the reply of ``INFO``.

    Raises:
        InvalidResponse: It lacks what every Redis and Valkey reports.
    """
    fields = dict(_INFO_FIELD.findall(info)) if isinstance(info, bytes) else {}
    try:
        identity = ServerIdentity(run_id=fields[b"run_id"].decode(), replication_id=fields[b"master_replid"].decode())
        return ServerReport(identity=identity, role=fields[b"role"].decode(), loading=fields[b"loading"] != b"0")
    except KeyError as missing:
        raise InvalidResponse(f"INFO does not report {missing.args[0].decode()}") from None


def slot_ranges(slots: Iterable[int]) -> tuple[SlotRange, ...]:
    """Ascending slots as ranges."""
    ranges: list[SlotRange] = []
    for slot in slots:
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return tuple(ranges)


_INFO_FIELD = re.compile(rb"^(run_id|master_replid|role|loading):([^\r\n]*)", re.MULTILINE)
