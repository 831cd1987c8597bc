"""The sink that is a Redis stream: one entry for each event, the oldest ones trimmed."""

from redis.exceptions import RedisError

from engine.kernel import Kernel
from engine.transport.errors import TransportError
from engine.transport.wire import pack_keys
from persistence.publishing.attempt import Attempt
from persistence.publishing.event_types import STREAM_LENGTH

STREAM_AT_ONCE_MAX = 500  # entries on their way at a time; they travel in one batch


class StreamSender:
    """Adds to one stream. Its name may carry a hash tag, which says where in a cluster it lives.

    The whole stream is one key, and so one server's; it needs no place in the slots of the partitions, for no script
    writes it.
    """

    def __init__(self, kernel: Kernel, name: str, *, length: int = STREAM_LENGTH) -> None:
        self._transport = kernel.transport
        self._name = name.encode()
        self._slot = pack_keys([self._name]).slot
        self._length = length

    async def send(self, message_id: str, type_: str, body: bytes) -> Attempt:
        """Add one event. A Redis that is away, or short of memory, is waited for."""
        parts = (b"XADD", self._name, b"MAXLEN", b"~", self._length, b"*")
        try:
            await self._transport.command(*parts, b"id", message_id, b"type", type_, b"data", body, slot=self._slot)
        except (TransportError, RedisError) as error:
            return Attempt(outcome="failed", reason=f"{type(error).__name__}: {error}", endless=True)
        return Attempt(outcome="delivered")

    async def close(self) -> None:
        """Nothing: the connection is the installation's."""
