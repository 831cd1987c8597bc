"""The sink that is a webhook: one signed POST for each event, over connections that are kept."""

import asyncio
import datetime as dt
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from functools import cache
from ssl import SSLContext

import httpcore2
import msgspec

from persistence.publishing.attempt import Attempt, Outcome
from persistence.publishing.envelope import CONTENT_TYPE
from persistence.publishing.signing import signature_header
from persistence.publishing.targets import GuardedNetwork, TargetRefused, check_url

SEND_TIMEOUT_S = 10.0  # from the name to the end of the answer; receivers should answer first and work afterwards
AT_ONCE_MAX = 8  # requests to one endpoint, each on a connection of its own
KEPT_S = 30.0  # an idle connection; most servers keep one for longer
ANSWER_MAX = 4_096  # bytes of an answer that are read: its status is what counts
REASON_MAX = 300  # characters kept of why an attempt failed
USER_AGENT = b"holdfast-webhooks/1"


class WebhookSender:
    """Sends to one endpoint. Follows no redirects, uses no proxy, keeps no cookies."""

    def __init__(
        self, url: str, secrets: Sequence[str], *, allow_private: bool, timeout_s: float = SEND_TIMEOUT_S
    ) -> None:
        self._url = url
        self._secrets = tuple(secrets)
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def send(self, message_id: str, body: bytes) -> Attempt:
        """Send one event; whatever becomes of it is in the answer."""
        began = time.monotonic()
        try:
            check_url(self._url, allow_private=self._allow_private)
            async with asyncio.timeout(self._timeout_s):
                attempt = await self._post(message_id, body)
        except TargetRefused as error:
            attempt = _failed(f"target refused: {error}")
        except (TimeoutError, httpcore2.TimeoutException):
            attempt = _failed(f"no answer within {self._timeout_s:g} s")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
            attempt = _failed(f"{type(error).__name__}: {error}")
        return msgspec.structs.replace(attempt, seconds=round(time.monotonic() - began, 3))

    async def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _post(self, message_id: str, body: bytes) -> Attempt:
        now_s = int(time.time())
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"user-agent", USER_AGENT),
            (b"webhook-id", message_id.encode()),
            (b"webhook-timestamp", b"%d" % now_s),
            (b"webhook-signature", signature_header(self._secrets, message_id, now_s, body).encode()),
        ]
        waits = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)
        request = self._connections().stream(
            "POST", self._url, headers=headers, content=body, extensions={"timeout": waits}
        )
        async with request as response:
            answer = b""
            async for chunk in response.aiter_stream():
                answer += chunk
                if len(answer) >= ANSWER_MAX:
                    break  # the connection is closed rather than kept
            return _judge(response.status, response.headers, answer[:ANSWER_MAX])

    def _connections(self) -> httpcore2.AsyncConnectionPool:
        if self._pool is None:
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=_tls(),
                max_connections=AT_ONCE_MAX,
                max_keepalive_connections=AT_ONCE_MAX,
                keepalive_expiry=KEPT_S,
                network_backend=GuardedNetwork(allow_private=self._allow_private),
            )
        return self._pool


@cache
def _tls() -> SSLContext:
    """One for all endpoints: reading the certificates takes tens of milliseconds."""
    return httpcore2.default_ssl_context()


def _judge(status: int, headers: Sequence[tuple[bytes, bytes]], answer: bytes) -> Attempt:
    text = answer.decode("utf-8", "replace")
    outcome: Outcome = "failed"
    if 200 <= status < 300:
        outcome = "delivered"
    elif status == 410:
        outcome = "gone"
    reason = "" if outcome == "delivered" else f"status {status}"
    if 300 <= status < 400:
        reason += ", a redirect, which is not followed"
    named = {name.lower(): value for name, value in headers}
    wait_s = _retry_after(named.get(b"retry-after", b"").decode("latin-1"))
    return Attempt(outcome=outcome, status=status, reason=reason, answer=text, retry_after_s=wait_s)


def _retry_after(text: str) -> float:
    """Seconds, of either form of the header; 0 for what is neither."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        return 0.0
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())


def _failed(reason: str) -> Attempt:
    return Attempt(outcome="failed", reason=reason[:REASON_MAX])
