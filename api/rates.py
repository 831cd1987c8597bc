"""What a client is told of its allowances: the headers ``RateLimit-Policy`` and ``RateLimit``, on every answer."""

from api.answers import Header
from engine.rate_limits import ADDRESS, CALLER, RateLimit


class RateHeaders:
    """The headers of one installation's limits: each policy's requests and seconds, and how many may follow at once."""

    def __init__(self, by_caller: RateLimit | None, by_address: RateLimit | None) -> None:
        of_caller, of_address = _policy(CALLER, by_caller), _policy(ADDRESS, by_address)
        self._of_caller: Header = (b"ratelimit-policy", of_caller)
        self._of_address: Header = (b"ratelimit-policy", of_address)
        self._of_both: Header = (b"ratelimit-policy", of_address + b", " + of_caller)

    def telling(self, of_caller: int | None, of_address: int | None) -> tuple[Header, ...]:
        """The headers of an answer to a request that was counted by its caller, its address, both or neither."""
        if of_caller is None:
            return () if of_address is None else (self._of_address, (b"ratelimit", b'"address";r=%d' % of_address))
        if of_address is None:
            return self._of_caller, (b"ratelimit", b'"caller";r=%d' % of_caller)
        return self._of_both, (b"ratelimit", b'"address";r=%d, "caller";r=%d' % (of_address, of_caller))


def _policy(name: str, limit: RateLimit | None) -> bytes:
    return b"" if limit is None else b'"%b";q=%d;w=%d' % (name.encode("ascii"), limit.requests, limit.window_s)
