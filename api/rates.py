"""What a caller is told of their allowance: the headers ``RateLimit-Policy`` and ``RateLimit``, on every answer."""

import msgspec

from api.answers import Answer, Header
from engine.rate_limits import RateLimit


def rate_headers(requests: int, window_s: int, left: int) -> tuple[Header, ...]:
    """The policy, ``requests`` in ``window_s`` seconds, and how many may follow at once."""
    policy = b'"caller";q=%d;w=%d' % (requests, window_s)
    return (b"ratelimit-policy", policy), (b"ratelimit", b'"caller";r=%d' % left)


def with_rate(answer: Answer, limit: RateLimit, left: int) -> Answer:
    """*answer* with these headers."""
    return msgspec.structs.replace(
        answer, headers=(*answer.headers, *rate_headers(limit.requests, limit.window_s, left))
    )
