"""The ASGI application: one pass from a request to an answer, and the one place where exceptions become problems.

Answers are values until they are sent, so that headers common to all are added once, instead of by middleware that
wraps ``send``; and a hot route pays for one look-up per segment of its path, not for a stack of layers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from api.answers import Answer, send_answer, write_answer
from api.audit_log import log_change, log_refused
from api.call import Call, read_body, whole_body
from api.decoding import require_no_body
from api.dispatch import RouteTable
from api.errors import ApiError, ClientGone, ContentEncoded, Forbidden, RouteNotFound, UnsupportedMediaType
from api.heads import joined_headers
from api.idempotency import answer_once, once_for
from api.identity import Caller
from api.problems import answer_problem
from api.rates import RateHeaders
from api.route import Route
from api.routes import ROUTES
from api.services import Services
from engine import figures
from engine.errors import InvalidRequest, RateLimited
from engine.ids import parse_claim_id

_PERCENT = ord("%")  # looked for as a byte, which costs a seventh of a search for bytes
UNKNOWN = "unknown"  # label of requests to no route
UNCOUNTED = frozenset(("/healthz", "/readyz", "/metrics"))  # asked by machines, which take silence for an outage

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def create_app(
    services: Services,
    *,
    lifespan: Lifespan | None = None,
    public_url: str | None = None,
    cors_origins: Sequence[str] = (),
) -> ASGIApp:
    """The application over *services*.

    *public_url* is the base of absolute URIs, without a trailing slash; absent, the request's own. Browsers on other
    sites are let in only when *cors_origins* names them.
    """
    app: ASGIApp = Application(services, ROUTES, lifespan=lifespan, public_url=public_url)
    if cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=cors_origins,
            allow_methods=("GET", "POST", "PATCH", "DELETE"),
            allow_headers=(
                "authorization",
                "content-type",
                "holdfast-admission",
                "idempotency-key",
                "if-match",
                "if-none-match",
                "last-event-id",
                "x-request-id",
            ),
            expose_headers=(
                "etag",
                "idempotent-replayed",
                "link",
                "location",
                "ratelimit",
                "ratelimit-policy",
                "retry-after",
                "x-request-id",
            ),
        )
    return app


class Application:
    """Routes, who may call them, and what happens to what they raise."""

    def __init__(
        self, services: Services, routes: Sequence[Route], *, lifespan: Lifespan | None, public_url: str | None
    ) -> None:
        self._services = services
        self._table = RouteTable(routes)
        limiter = services.limiter
        self._rates = None if limiter is None else RateHeaders(limiter.by_caller, limiter.by_address)
        self._public_url = public_url
        self._beside_http = Router(lifespan=lifespan)  # speaks the lifespan protocol, and turns WebSockets away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._beside_http(scope, receive, send)
            return
        began = time.perf_counter()
        call = Call(scope, self._services, public_url=self._public_url)
        try:
            answer = await self._answer(call, receive)
        except ClientGone:
            return
        except Exception as error:
            answer = _problem(call, error)
        try:
            told = b"" if self._rates is None else self._rates.lines(call.left_of_caller, call.left_of_address)
            if not write_answer(answer, send, request_id=call.request_id, more=told):
                with_body = scope["method"] != "HEAD"
                await send_answer(answer, send, request_id=call.request_id, with_body=with_body, more=told)
            _observe(call, answer, time.perf_counter() - began)
            if answer.stream is not None:
                await answer.stream.run(scope, receive, send)
        finally:
            if answer.stream is not None:
                answer.stream.close()

    async def _answer(self, call: Call, receive: Receive) -> Answer:
        scope = call.scope
        path: str = scope["path"]
        if call.root_path and path.startswith(call.root_path):
            path = path[len(call.root_path) :]
        try:
            if len(call.headers) != len(scope["headers"]) or b"host" not in call.headers:
                call.headers = joined_headers(scope["headers"], scope["http_version"])
            # A slash that is escaped parts nothing: a proxy, and its rules, see another path than the decoded one.
            if _PERCENT in (raw := scope.get("raw_path") or b"") and b"%2f" in raw.lower():
                raise RouteNotFound
            route, call.params = self._table.find(scope["method"], path)
        except (ApiError, InvalidRequest):
            await self._count(call, where=self._where(call))
            raise
        call.route_path = route.path
        if route.roles:
            await self._let_in(call, route)
        elif route.path not in UNCOUNTED:
            await self._count(call, where=self._where(call))
        answer = await self._run(call, route, receive)
        log_change(call, route, answer)
        return answer

    async def _run(self, call: Call, route: Route, receive: Receive) -> Answer:
        if not route.changes:
            return await route.handler(call)
        if (body := whole_body(receive, call.headers, maximum=route.body_max)) is None:
            body = await read_body(receive, call.headers, maximum=route.body_max)
        call.body = body
        if call.body and not route.takes_bytes:
            if b"content-encoding" in call.headers and call.headers[b"content-encoding"].lower() != b"identity":
                raise ContentEncoded
            if route.body is not None:
                _require_json(call.headers.get(b"content-type"))
            else:
                require_no_body(call.body, route.query)
        if (key := call.headers.get(b"idempotency-key")) is None:
            return await route.handler(call)
        asked = b"%s?%s" % (call.body, call.query_string) if call.query_string else call.body
        call.once = once_for(
            key,
            caller=call.caller.sub,
            route=f"{route.method} {route.path}",
            params=call.params,
            body=asked,
            body_repeats=route.bodies_repeat,
        )
        if not route.keeps_answers:
            return await route.handler(call)
        return await answer_once(self._services.once, call.once, lambda: _handle(route, call))

    async def _let_in(self, call: Call, route: Route) -> None:
        """Count the request and find out who makes it; a token is only checked for an address that may ask."""
        verifier = self._services.verifier
        authorization = call.headers.get(b"authorization")
        caller, where = verifier.recall(authorization), self._where(call)
        if caller is None:
            await self._count(call, where=where)
            caller, where = await verifier.verify(authorization), None
        call.caller = caller
        if (limiter := self._services.limiter) is not None:
            who = None if caller.is_trusted else caller.sub
            if (left := limiter.spend(caller=who, address=where)) is not None:
                call.tell_left(*left)
            else:
                await self._count(call, where=where, who=who)
        if route.roles.isdisjoint(caller.roles):
            raise Forbidden
        if caller.scope is not None:
            _confine(caller, call.params)

    def _where(self, call: Call) -> str | None:
        """Where the request comes from, if anybody asks."""
        limiter = self._services.limiter
        if limiter is None or limiter.by_address is None:
            return None
        return self._services.proxies.client_of(call.scope)

    async def _count(self, call: Call, *, where: str | None, who: str | None = None) -> None:
        """Count the request by its address, its caller, or both."""
        if (limiter := self._services.limiter) is None or (where is None and who is None):
            return
        try:
            of_caller, of_address = await limiter.take(caller=who, address=where)
        except RateLimited as refused:
            call.tell_left(refused.left_of_caller, refused.left_of_address)
            raise
        call.tell_left(of_caller, of_address)


def _observe(call: Call, answer: Answer, seconds: float) -> None:
    # What is not in the table of routes must not make labels of its own: anybody could make any number of them.
    method = call.scope["method"] if call.route_path else UNKNOWN
    figures.REQUESTS.observe(seconds, method, call.route_path or UNKNOWN, answer.status)


def _confine(caller: Caller, params: Mapping[str, str]) -> None:
    """Keep a confined token to its events; the ids of holds and bookings name theirs."""
    if (event_id := params.get("event_id")) is not None:
        caller.require_event(event_id)
    for name in ("hold_id", "booking_id"):
        if name in params and (key := parse_claim_id(params[name])) is not None:
            caller.require_event(key.event_id)


async def _handle(route: Route, call: Call) -> Answer:
    """The handler's answer, refusals included: they are what a repetition must be told, too."""
    try:
        return await route.handler(call)
    except Exception as error:
        return _problem(call, error)


def _problem(call: Call, error: Exception) -> Answer:
    log_refused(call, error)
    return answer_problem(error, base_url=call.base_url, request_id=call.request_id, route=call.route_path)


def _require_json(content_type: bytes | None) -> None:
    """Raise unless a body may be read as JSON; one that does not say what it is, is taken for it."""
    if content_type is None or content_type == b"application/json":
        return
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type == b"application/json" or (media_type.startswith(b"application/") and media_type.endswith(b"+json")):
        return
    raise UnsupportedMediaType
