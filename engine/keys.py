"""The names of every key in Redis, and nothing else that knows them; ``docs/keys.md`` says what is in them.

Everything of one partition carries one hash tag, so that every script is single-slot on Redis Cluster.
"""

import binascii
import re
from collections import OrderedDict
from collections.abc import Sequence

from engine.transport.wire import PackedKeys, pack_keys
from lua import Script

EVENT_KEYS = frozenset(
    ("state", "loading", "held", "sold", "holds", "expiries", "users", "rows", "ended", "bookings",
     "waitlist", "entries", "wanted", "notices", "queue", "removed")
)  # fmt: skip
# Of one load of an event, with its epoch in the name: what a loader sends that has lost its turn harms no other load.
LOAD_KEYS = frozenset(("new_bookings", "new_users"))
PARTITION_KEYS = frozenset(("journal", "dead", "wakeups", "live", "trail", "stored", "rates", "lines"))
_EVENT_KEY = re.compile(r"hf:\{\d+\}:([^:]+):[a-z_]+(?:@\d+)?")
PACKED_MAX = 20_000  # packed key lists kept by a process, about half a kilobyte each


def partition_of(event_id: str, group: str | None, partitions: int) -> int:
    """The partition of an event: events of one group share one, and can be held together."""
    return binascii.crc32((group or event_id).encode()) % partitions


def event_key(partition: int, event_id: str, name: str) -> bytes:
    """The key *name* of an event."""
    assert name in EVENT_KEYS, name
    return f"hf:{{{partition}}}:{event_id}:{name}".encode()


def load_key(partition: int, event_id: str, name: str, epoch: int) -> bytes:
    """The key *name* of one load of an event."""
    assert name in LOAD_KEYS, name
    return f"hf:{{{partition}}}:{event_id}:{name}@{epoch}".encode()


def event_of_key(key: bytes) -> str:
    """The event that a key of an event belongs to.

    Raises:
        ValueError: It is no such key.
    """
    match = _EVENT_KEY.fullmatch(key.decode())
    if match is None:
        raise ValueError(f"not a key of an event: {key!r}")
    return match[1]


def partition_key(partition: int, name: str) -> bytes:
    """The key *name* of a partition."""
    assert name in PARTITION_KEYS, name
    return f"hf:{{{partition}}}:{name}".encode()


def once_key(partition: int, scope: bytes) -> bytes:
    """The record of an idempotency key, by the digest of its scope."""
    return b"hf:{%d}:once:%s" % (partition, scope)


class KeyRing:
    """Keys of scripts' calls, packed for the wire once and kept."""

    def __init__(self) -> None:
        self._packed: OrderedDict[tuple[str, str, int], PackedKeys] = OrderedDict()
        self._of_partitions: dict[tuple[str, int], PackedKeys] = {}

    def for_event(
        self,
        script: Script,
        event_id: str,
        partition: int,
        once: bytes | None = None,
        epoch: int | None = None,
    ) -> PackedKeys:
        """The keys of a call that concerns one event; *once* is the scope digest of an idempotency key.

        *epoch* is for scripts that concern one load of it.
        """
        if epoch is not None:  # called once or twice in a load: not worth keeping
            return self.for_events(script, [event_id], partition, once, epoch)
        # Calls with an idempotency key differ in nothing but that: all up to it is kept.
        size = -1 if once is None else len(once)
        packed = self._packed.get((script.name, event_id, size))
        if packed is None:
            packed = self.for_events(script, [event_id], partition)
            if once is not None:
                packed = packed.begin_key(once_key(partition, b""), size)
            self._packed[script.name, event_id, size] = packed
            if len(self._packed) > PACKED_MAX:
                self._packed.popitem(last=False)
        return packed if once is None else packed.end_key(once)

    def with_onces(self, keys: PackedKeys, partition: int, onces: Sequence[bytes]) -> PackedKeys:
        """*keys* and those of many idempotency keys, by the digests of their scopes."""
        return keys.with_keys([once_key(partition, once) for once in onces])

    def for_partition(self, script: Script, partition: int) -> PackedKeys:
        """The keys of a call that concerns no single event."""
        packed = self._of_partitions.get((script.name, partition))
        if packed is None:
            packed = pack_keys([partition_key(partition, name) for name in script.event_keys])
            self._of_partitions[script.name, partition] = packed
        return packed

    def for_events(
        self,
        script: Script,
        event_ids: Sequence[str],
        partition: int,
        once: bytes | None = None,
        epoch: int | None = None,
    ) -> PackedKeys:
        """The keys of a call that concerns several events of one partition."""
        names = [_name_key(partition, event_id, name, epoch) for event_id in event_ids for name in script.event_keys]
        names += [partition_key(partition, name) for name in script.shared_keys]
        if once is not None:
            names.append(once_key(partition, once))
        return pack_keys(names)


def _name_key(partition: int, event_id: str, name: str, epoch: int | None) -> bytes:
    if name in EVENT_KEYS:
        return event_key(partition, event_id, name)
    if name in LOAD_KEYS:
        assert epoch is not None, name
        return load_key(partition, event_id, name, epoch)
    return partition_key(partition, name)
