"""A stand-in for Stripe: a local server that speaks as much of its HTTP API as the adapter uses. It is not Stripe.

Written after Stripe's documentation of PaymentIntents, refunds, idempotent requests and webhooks: forms in, JSON out;
errors under ``error``, a declined card as 402 with the intent inside; the first answer of an ``Idempotency-Key`` again,
errors included.
"""

import asyncio
import contextlib
import itertools
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class StripeStandIn:
    """Its intents by id, and every request that it has had; the next *failing* ones are done and answered 502.

    So are the next of *lost_refunds*, whatever was asked for before them.
    """

    def __init__(self) -> None:
        self.url = ""
        self.intents: dict[str, dict[str, Any]] = {}
        self.refunds: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.failing = 0
        self.lost_refunds = 0
        self._answers: dict[str, tuple[int, Any]] = {}
        self._forms: dict[str, dict[str, str]] = {}
        self._numbers = itertools.count(1)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/payment_intents", self._create, methods=["POST"]),
                Route("/v1/payment_intents/{id}", self._show, methods=["GET"]),
                Route("/v1/payment_intents/{id}/capture", self._capture, methods=["POST"]),
                Route("/v1/payment_intents/{id}/cancel", self._cancel, methods=["POST"]),
                Route("/v1/refunds", self._refund, methods=["POST"]),
                Route("/v1/refunds", self._list_refunds, methods=["GET"]),
            ]
        )

    async def _create(self, request: Request) -> Response:
        return await self._once(request, self._make_intent)

    async def _capture(self, request: Request) -> Response:
        def capture(form: dict[str, str]) -> tuple[int, Any]:
            intent = self.intents[request.path_params["id"]]
            if intent["status"] != "requires_capture":
                return 400, _error("payment_intent_unexpected_state", intent)
            intent |= {"status": "succeeded", "amount_received": int(form["amount_to_capture"])}
            return 200, dict(intent)

        return await self._once(request, capture)

    async def _cancel(self, request: Request) -> Response:
        def cancel(_: dict[str, str]) -> tuple[int, Any]:
            intent = self.intents[request.path_params["id"]]
            if intent["status"] in ("succeeded", "canceled"):
                return 400, _error("payment_intent_unexpected_state", intent)
            intent["status"] = "canceled"
            return 200, dict(intent)

        return await self._once(request, cancel)

    async def _refund(self, request: Request) -> Response:
        def refund(form: dict[str, str]) -> tuple[int, Any]:
            intent = self.intents[form["payment_intent"]]
            given = sum(one["amount"] for one in self.refunds if one["payment_intent"] == intent["id"])
            if int(form["amount"]) > intent["amount_received"] - given:
                return 400, _error("charge_already_refunded", None)
            made = {"id": f"re_{next(self._numbers)}", "payment_intent": intent["id"], "amount": int(form["amount"])}
            made |= {"status": "succeeded", "metadata": _metadata(form)}
            self.refunds.append(made)
            return 200, made

        answer = await self._once(request, refund)
        if self.lost_refunds:
            self.lost_refunds -= 1
            return Response("a proxy on the way", status_code=502)
        return answer

    async def _list_refunds(self, request: Request) -> Response:
        """The newest first, as many as were asked for."""
        if self.failing:
            self.failing -= 1
            return Response("a proxy on the way", status_code=502)
        intent, limit = request.query_params["payment_intent"], int(request.query_params.get("limit", "10"))
        theirs = [one for one in reversed(self.refunds) if one["payment_intent"] == intent]
        return JSONResponse({"object": "list", "data": theirs[:limit], "has_more": len(theirs) > limit})

    def forget_keys(self) -> None:
        """A day has passed: every ``Idempotency-Key`` is as new."""
        self._answers.clear()
        self._forms.clear()

    async def _show(self, request: Request) -> Response:
        intent = self.intents.get(request.path_params["id"])
        return JSONResponse(intent) if intent else JSONResponse(_error("resource_missing", None), status_code=404)

    def _make_intent(self, form: dict[str, str]) -> tuple[int, Any]:
        status = {"pm_card_visa": "requires_capture", "pm_3ds": "requires_action"}.get(form["payment_method"])
        intent: dict[str, Any] = {
            "id": f"pi_{next(self._numbers)}",
            "object": "payment_intent",
            "status": status or "requires_payment_method",
            "amount": int(form["amount"]),
            "amount_received": 0,
            "metadata": _metadata(form),
            "next_action": None,
            "last_payment_error": None,
        }
        if status == "requires_action":
            intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://bank.example/3ds"}}
        self.intents[intent["id"]] = intent
        if status is None:
            return 402, _error("card_declined", intent)
        return 200, dict(intent)

    async def _once(self, request: Request, act: Any) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        self.requests.append((request.url.path, form, dict(request.headers)))
        key = request.headers["idempotency-key"]
        if key not in self._answers:
            self._answers[key] = act(form)
            self._forms[key] = form
        if self.failing:
            self.failing -= 1
            return Response("a proxy on the way", status_code=502)
        if self._forms[key] != form:
            return JSONResponse(
                {"error": {"type": "idempotency_error", "message": "other parameters"}}, status_code=400
            )
        status, body = self._answers[key]
        return JSONResponse(body, status_code=status)


def _metadata(form: dict[str, str]) -> dict[str, str]:
    return {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")}


def _error(code: str, intent: dict[str, Any] | None) -> dict[str, Any]:
    error: dict[str, Any] = {"type": "card_error", "code": code, "message": "as a person reads it"}
    if code == "card_declined":
        error["decline_code"] = "insufficient_funds"
    return {"error": error | ({"payment_intent": dict(intent)} if intent else {})}


@contextlib.contextmanager
def running_stand_in() -> Iterator[StripeStandIn]:
    """The stand-in on a free port, in a thread of its own."""
    stand_in = StripeStandIn()
    started: queue.SimpleQueue[uvicorn.Server] = queue.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stand_in.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def serve() -> None:
            server = uvicorn.Server(uvicorn.Config(stand_in.app(), log_level="warning", lifespan="off"))
            started.put(server)
            await server.serve([listener])

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="stripe stand-in", daemon=True)
        thread.start()
        server = started.get(timeout=10)
        try:
            yield stand_in
        finally:
            server.should_exit = True
            thread.join(timeout=10)
