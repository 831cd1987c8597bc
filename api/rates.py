"""What a client is told of its allowances: the headers ``RateLimit-Policy`` and ``RateLimit``, on every answer."""

from engine.rate_limits import ADDRESS, CALLER, RateLimit


class RateHeaders:
    """The headers of one installation's limits: each policy's requests and seconds, and how many may follow at once.

    They come as they go over the wire: a line each, so that an answer need not be put together from them one by one.
    """

    def __init__(self, by_caller: RateLimit | None, by_address: RateLimit | None) -> None:
        of_caller, of_address = _policy(CALLER, by_caller), _policy(ADDRESS, by_address)
        self._of_caller = _lines(of_caller, b'"caller";r=%d')
        self._of_address = _lines(of_address, b'"address";r=%d')
        self._of_both = _lines(of_address + b", " + of_caller, b'"address";r=%d, "caller";r=%d')

    def lines(self, of_caller: int | None, of_address: int | None) -> bytes:
        """Those of an answer to a request that was counted by its caller, its address, both or neither."""
        if of_caller is None:
            return b"" if of_address is None else self._of_address % of_address
        return self._of_caller % of_caller if of_address is None else self._of_both % (of_address, of_caller)


def _policy(name: str, limit: RateLimit | None) -> bytes:
    return b"" if limit is None else b'"%b";q=%d;w=%d' % (name.encode("ascii"), limit.requests, limit.window_s)


def _lines(policy: bytes, left: bytes) -> bytes:
    return b"ratelimit-policy: %b\r\nratelimit: %b\r\n" % (policy, left)
