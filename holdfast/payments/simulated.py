"""The adapter to Holdfast's own payment simulator (``holdfast simulator``), over HTTP as to any other provider."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx2
import msgspec
import structlog

from api.decoding import decode_body
from engine.payments import PROVIDER_TIMEOUT_S, UNKNOWN, Charge, Name, Notice, Said, Sum, Text
from holdfast.payments.signatures import require_signature

SIGNATURE_HEADER = "holdfast-signature"

_NOT_THERE = (404, 409)  # no such payment, or none of which this could be done

logger = structlog.get_logger("holdfast.payments")


class PaymentDocument(msgspec.Struct, frozen=True):
    """A payment as the simulator tells of it."""

    key: Name
    status: Literal["pending", "authorized", "captured", "declined", "voided"]
    amount: Sum
    captured: Sum
    refunded: Sum
    redirect_url: Text | None = None
    reason: Text | None = None

    def said(self) -> Said:
        return Said(
            outcome=self.status,
            provider_ref=self.key,
            captured=self.captured,
            redirect_url=self.redirect_url,
            reason=self.reason,
        )


class NoticeDocument(msgspec.Struct, frozen=True):
    """A webhook of the simulator's."""

    id: Name
    payment: PaymentDocument


_payment = msgspec.json.Decoder(PaymentDocument)
_notice = msgspec.json.Decoder(NoticeDocument)


class SimulatedProvider:
    """Speaks to the simulator at *base_url*; its webhooks are signed with one of *secrets*."""

    name = "simulator"

    def __init__(self, base_url: str, client: httpx2.AsyncClient, secrets: Sequence[str]) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._secrets = secrets

    async def authorize(self, charge: Charge) -> Said:
        """Set the money aside."""
        body = {
            "key": charge.key,
            "booking_id": charge.booking_id,
            "method": charge.method,
            "amount": charge.amount,
            "currency": charge.currency,
            "expires_at": charge.expires_at.isoformat(),
        }
        return await self._call("POST", "/payments", body)

    async def capture(self, charge: Charge, amount: int) -> Said:
        """Take *amount*."""
        return await self._call("POST", f"/payments/{charge.key}/capture", {"amount": amount})

    async def void(self, charge: Charge) -> Said:
        """Let go, and keep a later authorization of this key from doing anything."""
        return await self._call("POST", f"/payments/{charge.key}/void", {})

    async def refund(self, charge: Charge, amount: int, *, key: str) -> Literal["done", "refused", "unknown"]:
        """Give *amount* back."""
        said = await self._call("POST", f"/payments/{charge.key}/refunds", {"amount": amount, "key": key})
        if said.outcome == "unknown":
            return "unknown"
        return "refused" if said.outcome == "absent" else "done"

    async def look_up(self, charge: Charge) -> Said:
        """What the simulator knows of it."""
        return await self._call("GET", f"/payments/{charge.key}")

    def parse_webhook(self, headers: Mapping[bytes, bytes], body: bytes, *, now: dt.datetime) -> Notice | None:
        """What a webhook says."""
        require_signature(headers.get(SIGNATURE_HEADER.encode()), body, self._secrets, now=now)
        document = decode_body(_notice, body, in_parts=True)  # what is kept of it has no NUL by its type
        return Notice(id=document.id, key=document.payment.key, said=document.payment.said())

    async def _call(self, method: str, path: str, body: Any = None) -> Said:
        """One call; whatever is not a plain answer is unknown, but for what is not there to be acted upon."""
        try:
            response = await self._client.request(
                method, f"{self._base_url}{path}", json=body, timeout=PROVIDER_TIMEOUT_S, follow_redirects=False
            )
            if response.status_code in _NOT_THERE:
                return Said(outcome="absent")
            if response.status_code >= 300:
                logger.warning("provider answered", provider=self.name, path=path, status=response.status_code)
                return UNKNOWN
            return _payment.decode(response.content).said()
        except (httpx2.HTTPError, msgspec.DecodeError) as error:
            logger.warning("provider did not answer", provider=self.name, error=type(error).__name__)
            return UNKNOWN
