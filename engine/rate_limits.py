"""How many requests a caller may make: a bucket that fills at a steady rate, shared by all processes."""

import hashlib
from typing import TYPE_CHECKING

import msgspec
import structlog

from engine.errors import RateLimited, StoreUnavailable

if TYPE_CHECKING:  # commands that only read settings need not wait for Redis's client
    from engine.kernel import Kernel

SLOTS = 1 << 15  # of each partition's table, as many as in `ended`; some 2 MB when all are in use

logger = structlog.get_logger("holdfast.engine")


class RateLimit(msgspec.Struct, frozen=True):
    """``requests`` in ``window_s`` seconds, earned evenly, of which ``burst`` may come at once."""

    requests: int
    window_s: int
    burst: int

    @property
    def interval_us(self) -> int:
        """Microseconds in which one request is earned."""
        return self.window_s * 1_000_000 // self.requests


class RateLimiter:
    """Asks Redis for every request: what a caller did at another process counts too."""

    def __init__(self, kernel: "Kernel", limit: RateLimit) -> None:
        self.limit = limit
        self._kernel = kernel
        self._shape = (b"%d" % limit.interval_us, b"%d" % limit.burst)

    async def take(self, caller: str) -> int | None:
        """Take one request off *caller*'s allowance; returns how many may follow at once.

        Where Redis does not answer nobody is limited (``None``): what needs Redis fails by itself, and what does not
        need it must not fail for this. Not idempotent: a repeated call is another request.

        Raises:
            RateLimited: The allowance is used up.
        """
        digest = hashlib.blake2b(caller.encode(), digest_size=8).digest()
        number = int.from_bytes(digest)
        partition, slot = number % self._kernel.partitions, (number >> 16) % SLOTS
        args = (b"%d" % slot, digest.hex().encode(), *self._shape)
        try:
            status, figure = await self._kernel.run_in_partition("take_token", partition, args)
        except StoreUnavailable as error:
            logger.warning("nobody is limited", reason=str(error))
            return None
        if status == b"LIMITED":
            raise RateLimited(self.limit.requests, self.limit.window_s, retry_after_ms=figure)
        left: int = figure
        return left
