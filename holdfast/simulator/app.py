"""The simulator: a payment provider for development and tests, which fails in every way that a real one does.

What becomes of a payment is in the name of its method:

``sim_ok``          authorized at once
``sim_declined``    declined
``sim_slow_<ms>``   authorized after so many milliseconds; the answer takes as long
``sim_timeout``     authorized, and never answered
``sim_redirect``    pending until somebody submits the page at ``redirect_url``
``sim_late_ok``     pending, and authorized a second after the deadline of what it pays for
``sim_twice``       authorized, and told twice by webhook, once more under another id

It keeps its book in memory, signs its webhooks, and moves no money.
"""

import asyncio
import contextlib
import datetime as dt
import random
import re
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import httpx2
import msgspec
import structlog
import uuid_utils
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from holdfast.payments.signatures import sign
from holdfast.payments.simulated import SIGNATURE_HEADER
from holdfast.simulator.book import Asked, Book, NotPossible, Payment

SILENCE_S = 600.0  # for which ``sim_timeout`` says nothing; longer than anybody waits
SLOW_MAX_MS = 600_000
LATE_S = 1.0
BODY_MAX = 65_536
NOTICE_ATTEMPTS = 8  # of one webhook, the last one a minute after the first
NOTICE_PAUSE_S = 0.25  # doubled each time
NOTICE_TIMEOUT_S = 10.0

_SLOW = re.compile(r"sim_slow_(\d{1,6})")
_METHODS = ("sim_ok", "sim_declined", "sim_timeout", "sim_redirect", "sim_late_ok", "sim_twice")

logger = structlog.get_logger("holdfast.simulator")


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is wrong for the time being: ``down`` answers nobody, ``delay_ms`` answers everybody late.

    Of ``fail_rate`` calls every second one fails before it is done, the others after.
    """

    down: bool = False
    delay_ms: int = 0
    fail_rate: float = 0.0


class Amount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of it; ``key`` is a refund's."""

    amount: int
    key: str = ""


class Simulator:
    """The provider's state; *webhook_url* is where it tells of every change, if anywhere."""

    def __init__(
        self, *, secret: str, public_url: str, webhook_url: str | None, fail_rate: float = 0.0, seed: int = 0
    ) -> None:
        self.book = Book()
        self.faults = Faults(fail_rate=fail_rate)
        self.webhook_url = webhook_url
        self._secret = secret
        self._public_url = public_url
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = httpx2.AsyncClient(timeout=NOTICE_TIMEOUT_S, trust_env=False)

    def app(self) -> Starlette:
        """Its HTTP side."""
        return Starlette(
            routes=[
                Route("/payments", self._authorize, methods=["POST"]),
                Route("/payments/{key}", self._show, methods=["GET"]),
                Route("/payments/{key}/capture", self._capture, methods=["POST"]),
                Route("/payments/{key}/void", self._void, methods=["POST"]),
                Route("/payments/{key}/refunds", self._refund, methods=["POST"]),
                Route("/pay/{key}", self._page, methods=["GET"]),
                Route("/pay/{key}", self._submit, methods=["POST"]),
                Route("/ledger", self._ledger, methods=["GET"]),
                Route("/ledger", self._forget, methods=["DELETE"]),
                Route("/faults", self._set_faults, methods=["PUT"]),
                Route("/webhook-url", self._set_webhook_url, methods=["PUT"]),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._client.aclose()

    async def _authorize(self, request: Request) -> Response:
        asked = msgspec.json.decode(await _body(request), type=Asked)
        if (failed := await self._fail_before()) is not None:
            return failed
        slow = _SLOW.fullmatch(asked.method)
        if slow is None and asked.method not in _METHODS:
            return _answer(self.book.open(asked, "declined", reason="unknown_method"))
        is_new = asked.key not in self.book.payments
        payment = self._open(asked)
        if slow is not None and payment.status == "pending":
            await asyncio.sleep(min(int(slow[1]), SLOW_MAX_MS) / 1000)
            if self.book.decide(asked.key, "authorized"):
                self._tell(payment)
        elif is_new and asked.method != "sim_timeout":
            self._tell_of_new(payment, asked)
        if asked.method == "sim_timeout":
            await _say_nothing(request)
        return self._fail_after() or _answer(payment)

    def _open(self, asked: Asked) -> Payment:
        match asked.method:
            case "sim_declined":
                return self.book.open(asked, "declined", reason="card_declined")
            case "sim_redirect":
                return self.book.open(asked, "pending", redirect_url=f"{self._public_url}/pay/{asked.key}")
            case "sim_ok" | "sim_timeout" | "sim_twice":
                return self.book.open(asked, "authorized")
        return self.book.open(asked, "pending")

    def _tell_of_new(self, payment: Payment, asked: Asked) -> None:
        if asked.method == "sim_late_ok":
            self._keep_going(self._authorize_late(payment, asked.expires_at))
        elif payment.status != "pending":
            notice_id = self._tell(payment)
            if asked.method == "sim_twice":
                self._tell(payment, notice_id)
                self._tell(payment)

    async def _authorize_late(self, payment: Payment, expires_at: dt.datetime) -> None:
        await asyncio.sleep(max(0.0, (expires_at - dt.datetime.now(dt.UTC)).total_seconds()) + LATE_S)
        if payment.key in self.book.payments and self.book.decide(payment.key, "authorized"):
            self._tell(payment)

    async def _show(self, request: Request) -> Response:
        if (failed := await self._fail_before()) is not None:
            return failed
        payment = self.book.payments.get(request.path_params["key"])
        return Response(status_code=404) if payment is None else _answer(payment)

    async def _capture(self, request: Request) -> Response:
        asked = msgspec.json.decode(await _body(request), type=Amount)
        return await self._change(lambda: self.book.capture(request.path_params["key"], asked.amount))

    async def _void(self, request: Request) -> Response:
        return await self._change(lambda: self.book.void(request.path_params["key"]))

    async def _refund(self, request: Request) -> Response:
        asked = msgspec.json.decode(await _body(request), type=Amount)
        return await self._change(lambda: self.book.refund(request.path_params["key"], asked.amount, asked.key))

    async def _change(self, change: Any) -> Response:
        if (failed := await self._fail_before()) is not None:
            return failed
        try:
            payment: Payment = change()
        except NotPossible as error:
            return Response(str(error), status_code=409)
        self._tell(payment)
        return self._fail_after() or _answer(payment)

    async def _page(self, request: Request) -> Response:
        if request.path_params["key"] not in self.book.payments:
            return Response(status_code=404)
        return HTMLResponse(
            '<!doctype html><title>Simulated payment</title><form method="post">'
            '<button name="outcome" value="ok">Pay</button> '
            '<button name="outcome" value="declined">Decline</button></form>'
        )

    async def _submit(self, request: Request) -> Response:
        key = request.path_params["key"]
        if key not in self.book.payments:
            return Response(status_code=404)
        declined = b"outcome=declined" in await _body(request)
        if self.book.decide(key, "declined" if declined else "authorized"):
            self._tell(self.book.payments[key])
        return _answer(self.book.payments[key])

    async def _ledger(self, _request: Request) -> Response:
        return _json([payment.document() for payment in self.book.payments.values()])

    async def _forget(self, _request: Request) -> Response:
        self.book.payments.clear()
        return Response(status_code=204)

    async def _set_faults(self, request: Request) -> Response:
        self.faults = msgspec.json.decode(await _body(request), type=Faults)
        return _json(self.faults)

    async def _set_webhook_url(self, request: Request) -> Response:
        self.webhook_url = msgspec.json.decode(await _body(request), type=str | None)
        return _json(self.webhook_url)

    async def _fail_before(self) -> Response | None:
        if self.faults.delay_ms:
            await asyncio.sleep(self.faults.delay_ms / 1000)
        is_down = self.faults.down or self._random.random() < self.faults.fail_rate / 2
        return Response("out of order", status_code=503) if is_down else None

    def _fail_after(self) -> Response | None:
        failed = self._random.random() < self.faults.fail_rate / 2
        return Response("it may have been done", status_code=503) if failed else None

    def _tell(self, payment: Payment, notice_id: str | None = None) -> str:
        """Send a webhook of the payment as it is now."""
        notice_id = notice_id or uuid_utils.uuid7().hex
        body = msgspec.json.encode({"id": notice_id, "payment": payment.document()})
        if self.webhook_url is not None:
            self._keep_going(self._send(self.webhook_url, body))
        return notice_id

    async def _send(self, url: str, body: bytes) -> None:
        pause_s = NOTICE_PAUSE_S
        for _ in range(NOTICE_ATTEMPTS):
            headers = {SIGNATURE_HEADER: sign(body, self._secret, at=dt.datetime.now(dt.UTC))}
            try:
                response = await self._client.post(
                    url, content=body, headers=headers | {"content-type": "application/json"}
                )
                if response.status_code < 300:
                    return
            except httpx2.HTTPError:
                pass  # as an answer that is none: once more
            await asyncio.sleep(pause_s)
            pause_s *= 2
        logger.warning("webhook not delivered", url=url)

    def _keep_going(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _say_nothing(request: Request) -> None:
    """Wait until the caller has had enough."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            while (await request.receive())["type"] != "http.disconnect":
                pass


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX:
            raise ValueError(f"more than {BODY_MAX} bytes")
    return body


def _answer(payment: Payment) -> Response:
    return _json(payment.document())


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
