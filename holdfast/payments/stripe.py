"""The adapter to Stripe: PaymentIntents with manual capture, over its HTTP API (docs/decisions/0019).

A payment is created and confirmed in one call, whose ``Idempotency-Key`` is the payment's own key: asked again, Stripe
gives the first answer again. That is also how a payment is looked up whose answer was lost with its id in it. Stripe
forgets keys after a day; what must not be done twice even then, a refund, is looked for first.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Literal, TypeGuard

import httpx2
import msgspec
import structlog

from api.decoding import decode_body
from engine.payments import PROVIDER_TIMEOUT_S, UNKNOWN, Charge, Name, Notice, Outcome, Said, Sum, Text
from holdfast.payments.signatures import require_signature

API_VERSION = "2024-06-20"  # what the fields below are those of
KEY_FIELD = "holdfast_payment"  # of the metadata: webhooks name our payment by it
REFUND_FIELD = "holdfast_refund"  # of a refund's metadata: its key, for longer than Stripe remembers that as one
REFUNDS_MAX = 100  # of one payment that are looked through, the newest: as many as Stripe lists at once

_OUTCOMES: Mapping[str, Outcome] = {
    "requires_payment_method": "declined",
    "requires_confirmation": "pending",
    "requires_action": "pending",
    "processing": "pending",
    "requires_capture": "authorized",
    "succeeded": "captured",
    "canceled": "voided",
}

logger = structlog.get_logger("holdfast.payments")


class _RedirectTo(msgspec.Struct, frozen=True):
    url: Text | None = None


class _NextAction(msgspec.Struct, frozen=True):
    redirect_to_url: _RedirectTo | None = None


class _Refund(msgspec.Struct, frozen=True):
    status: str | None = None
    metadata: dict[str, str] = {}


class _Refunds(msgspec.Struct, frozen=True):
    data: list[_Refund]


class _LastError(msgspec.Struct, frozen=True):
    code: Text | None = None
    decline_code: Text | None = None


class _Metadata(msgspec.Struct, frozen=True):
    key: Name | None = msgspec.field(default=None, name=KEY_FIELD)


class _Intent(msgspec.Struct, frozen=True):
    id: Name
    status: str
    amount_received: Sum = 0
    metadata: _Metadata = _Metadata()
    next_action: _NextAction | None = None
    last_payment_error: _LastError | None = None


class _Error(msgspec.Struct, frozen=True):
    type: str | None = None
    code: Text | None = None
    decline_code: Text | None = None
    payment_intent: _Intent | None = None


class _Failure(msgspec.Struct, frozen=True):
    error: _Error


class _Object(msgspec.Struct, frozen=True):
    object: _Intent


class _Event(msgspec.Struct, frozen=True):
    id: Name
    type: str


class _IntentEvent(_Event, frozen=True):
    data: _Object


_intent = msgspec.json.Decoder(_Intent)
_refunds = msgspec.json.Decoder(_Refunds)
_failure = msgspec.json.Decoder(_Failure)
_event = msgspec.json.Decoder(_Event)
_intent_event = msgspec.json.Decoder(_IntentEvent)


class StripeProvider:
    """Speaks to Stripe at *base_url*; its webhooks are signed with one of *secrets*.

    With a *return_url* customers may be sent to their bank and come back there; without one they never are.
    """

    name = "stripe"

    def __init__(
        self,
        base_url: str,
        api_key: str,
        client: httpx2.AsyncClient,
        secrets: Sequence[str],
        *,
        return_url: str | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}", "stripe-version": API_VERSION}
        self._client = client
        self._secrets = secrets
        self._return_url = return_url

    async def authorize(self, charge: Charge) -> Said:
        """Create and confirm a PaymentIntent that is captured later."""
        form = {
            "amount": str(charge.amount),
            "currency": charge.currency.lower(),
            "payment_method": charge.method,
            "capture_method": "manual",
            "confirm": "true",
            f"metadata[{KEY_FIELD}]": charge.key,
            "metadata[booking_id]": charge.booking_id,
            "automatic_payment_methods[enabled]": "true",
        }
        if self._return_url is None:
            form["automatic_payment_methods[allow_redirects]"] = "never"
        else:
            form["return_url"] = self._return_url
        return await self._post("/v1/payment_intents", form, key=charge.key)

    async def capture(self, charge: Charge, amount: int) -> Said:
        """Take *amount*."""
        path = f"/v1/payment_intents/{charge.provider_ref}/capture"
        said = await self._post(path, {"amount_to_capture": str(amount)}, key=f"{charge.key}-capture")
        return said if said.outcome in ("captured", "unknown") else await self.look_up(charge)

    async def void(self, charge: Charge) -> Said:
        """Cancel it; one whose id was lost is asked for once more to learn it."""
        ref = charge.provider_ref
        if ref is None:
            said = await self.authorize(charge)
            if said.outcome not in ("authorized", "pending") or said.provider_ref is None:
                return said
            ref = said.provider_ref
        said = await self._post(f"/v1/payment_intents/{ref}/cancel", {}, key=f"{charge.key}-cancel")
        return said if said.outcome in ("voided", "unknown") else await self._show(ref)

    async def refund(self, charge: Charge, amount: int, *, key: str) -> Literal["done", "refused", "unknown"]:
        """Give *amount* back, unless that was done by an earlier call whose answer was lost, however long ago."""
        ref = charge.provider_ref or ""
        listed = await self._send("GET", f"/v1/refunds?payment_intent={ref}&limit={REFUNDS_MAX}")
        if (made := _find_refund(listed, key)) is not None:
            return made
        form = {"payment_intent": ref, "amount": str(amount)}
        response = await self._send("POST", "/v1/refunds", form | {f"metadata[{REFUND_FIELD}]": key}, key=key)
        if _says_key_in_use(response):  # by an earlier version, which gave refunds no metadata: its answer again
            response = await self._send("POST", "/v1/refunds", form, key=key)
        if not _has_decided(response):
            return "unknown"
        return "done" if response.status_code < 300 else "refused"

    async def look_up(self, charge: Charge) -> Said:
        """Show it; one whose id was lost is asked for once more, under the same key."""
        return await (self.authorize(charge) if charge.provider_ref is None else self._show(charge.provider_ref))

    def parse_webhook(self, headers: Mapping[bytes, bytes], body: bytes, *, now: dt.datetime) -> Notice | None:
        """What an event says of a PaymentIntent of ours."""
        require_signature(headers.get(b"stripe-signature"), body, self._secrets, now=now)
        event = decode_body(_event, body, in_parts=True)  # what is kept of it has no NUL by its type
        # One that has just been created has no method yet, which says nothing of the one that it is given next.
        if not event.type.startswith("payment_intent.") or event.type == "payment_intent.created":
            return None
        intent = decode_body(_intent_event, body, in_parts=True).data.object
        key = intent.metadata.key
        return None if key is None else Notice(id=event.id, key=key, said=_said(intent))

    async def _show(self, ref: str) -> Said:
        return _read(await self._send("GET", f"/v1/payment_intents/{ref}"))

    async def _post(self, path: str, form: dict[str, str], *, key: str) -> Said:
        return _read(await self._send("POST", path, form, key=key))

    async def _send(
        self, method: str, path: str, form: dict[str, str] | None = None, *, key: str | None = None
    ) -> httpx2.Response | None:
        headers = self._headers if key is None else self._headers | {"idempotency-key": key}
        try:
            return await self._client.request(
                method,
                f"{self._base_url}{path}",
                data=form,
                headers=headers,
                timeout=PROVIDER_TIMEOUT_S,
                follow_redirects=False,
            )
        except httpx2.HTTPError as error:
            logger.warning("provider did not answer", provider=self.name, error=type(error).__name__)
            return None


# Its key was used with other parameters (by an older version, or another return URL): that may have set money aside.
_KEY_IN_USE = "idempotency_error"
_TRY_AGAIN = (401, 403, 409, 429)  # a key that was withdrawn, a call under way, too many: nothing is decided


def _has_decided(response: httpx2.Response | None) -> TypeGuard[httpx2.Response]:
    if response is None or response.status_code >= 500 or response.status_code in _TRY_AGAIN:
        return False
    return not _says_key_in_use(response)


def _says_key_in_use(response: httpx2.Response | None) -> bool:
    if response is None or response.status_code != 400:
        return False
    try:
        return _failure.decode(response.content).error.type == _KEY_IN_USE
    except msgspec.DecodeError:
        return False


def _find_refund(listed: httpx2.Response | None, key: str) -> Literal["done", "refused", "unknown"] | None:
    """What has become of a refund, by the list of those of its payment; ``None`` when it was never made."""
    if not _has_decided(listed):
        return "unknown"
    if listed.status_code >= 300:
        return None  # there is no such payment, and whoever asks for a refund of it is told so
    try:
        refunds = _refunds.decode(listed.content).data
    except msgspec.DecodeError:
        return "unknown"
    ours = next((one for one in refunds if one.metadata.get(REFUND_FIELD) == key), None)
    if ours is None:
        return None
    return "refused" if ours.status in ("failed", "canceled") else "done"


def _read(response: httpx2.Response | None) -> Said:
    if response is None:
        return UNKNOWN
    try:
        if response.status_code < 300:
            return _said(_intent.decode(response.content))
        if response.status_code == 404:
            return Said(outcome="absent")
        if response.status_code in (400, 402):
            error = _failure.decode(response.content).error
            if error.type == _KEY_IN_USE:
                return UNKNOWN
            if error.payment_intent is not None:
                said = _said(error.payment_intent)
                return msgspec.structs.replace(said, reason=error.decline_code or error.code or said.reason)
            return Said(outcome="declined", reason=error.code)
    except msgspec.DecodeError:
        pass  # as an answer that is none
    logger.warning("provider answered", provider=StripeProvider.name, status=response.status_code)
    return UNKNOWN


def _said(intent: _Intent) -> Said:
    action, error = intent.next_action, intent.last_payment_error
    redirect = action.redirect_to_url if action is not None else None
    return Said(
        outcome=_OUTCOMES.get(intent.status, "unknown"),
        provider_ref=intent.id,
        captured=intent.amount_received,
        redirect_url=redirect.url if redirect is not None else None,
        reason=(error.decline_code or error.code) if error is not None else None,
    )
