"""One way to ask a service over HTTP: bounded in time and size, repeated once, behind a circuit breaker."""

import asyncio
import time
from typing import TypeVar

import httpx2
import msgspec
import structlog

from engine import figures
from holdfast.services.breaker import CircuitBreaker

T = TypeVar("T")

ATTEMPTS_MAX = 2  # a service that was just restarted refuses one connection; more would only pile up on one in trouble
ANSWER_MAX = 65_536  # bytes; an answer is a hundred
CONNECTIONS_MAX = 50  # a process's; what does not get one in time counts as a time-out

logger = structlog.get_logger("holdfast.services")


class ServiceFailed(Exception):
    """There is no answer that can be used; ``outcome`` says why, and is the label of the figure.

    ``timeout``, ``unreachable``, ``error`` (5xx), ``invalid`` (an answer that makes no sense), ``refused`` (any other
    status), ``circuit_open`` (it was not asked).
    """

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(f"{outcome}: {reason}")
        self.outcome = outcome
        self.reason = reason


class ServiceClient:
    """Asks the service at *url*, which is to answer a ``POST`` of JSON with JSON within *timeout_s* seconds.

    A question must be one that may be asked twice.
    """

    def __init__(self, name: str, url: str, *, timeout_s: float, breaker: CircuitBreaker | None = None) -> None:
        self.breaker = breaker if breaker is not None else CircuitBreaker()
        self._name = name
        self._url = url
        self._timeout_s = timeout_s
        limits = httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX)
        # The time limit is set around each attempt as a whole: httpx's own are for each of its steps.
        self._http = httpx2.AsyncClient(timeout=None, limits=limits, trust_env=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, question: msgspec.Struct, decoder: msgspec.json.Decoder[T]) -> T:
        """The service's answer to *question*.

        Raises:
            ServiceFailed: There is none that can be used.
        """
        began = time.perf_counter()
        outcome = "abandoned"
        try:
            answer = await self._ask_if_admitted(question, decoder)
            outcome = "answered"
            return answer
        except ServiceFailed as failed:
            outcome = failed.outcome
            if outcome != "circuit_open":
                logger.warning("service failed", service=self._name, outcome=outcome, reason=failed.reason)
            raise
        finally:
            figures.SERVICES.observe(time.perf_counter() - began, self._name, outcome)

    async def _ask_if_admitted(self, question: msgspec.Struct, decoder: msgspec.json.Decoder[T]) -> T:
        if not self.breaker.admits():
            raise ServiceFailed("circuit_open", "it failed too often, and is left alone for a while")
        was_open = self.breaker.is_open
        try:
            answer = await self._ask_twice(msgspec.json.encode(question), decoder)
        except ServiceFailed as failed:
            # A refusal is about this question: the service is there, and others may be answered.
            if failed.outcome == "refused":
                self.breaker.succeed()
            else:
                self.breaker.fail()
                if self.breaker.is_open and not was_open:
                    logger.error("circuit opened", service=self._name, outcome=failed.outcome)
            raise
        except BaseException:  # cancelled, most likely: another caller must be able to probe
            self.breaker.forget()
            raise
        self.breaker.succeed()
        if was_open:
            logger.info("circuit closed", service=self._name)
        return answer

    async def _ask_twice(self, body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
        """Once more where the first attempt cost little: not after a time-out, for the customer has waited already."""
        for attempts_left in reversed(range(ATTEMPTS_MAX)):
            try:
                return await self._ask_once(body, decoder)
            except ServiceFailed as failed:
                if not attempts_left or failed.outcome not in ("unreachable", "error"):
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _ask_once(self, body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                status, content = await self._post(body)
        except TimeoutError:
            raise ServiceFailed("timeout", f"no answer within {self._timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise ServiceFailed("unreachable", type(error).__name__) from error
        if status >= 500:
            raise ServiceFailed("error", f"status {status}")
        if status != 200:
            raise ServiceFailed("refused", f"status {status}")
        try:
            return decoder.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ServiceFailed("invalid", str(error)) from None

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        headers = {"content-type": "application/json", "accept": "application/json"}
        async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > ANSWER_MAX:
                    raise ServiceFailed("invalid", f"more than {ANSWER_MAX} bytes")
            return response.status_code, bytes(content)
