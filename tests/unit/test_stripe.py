"""The adapter to Stripe against a local stand-in that speaks its API (``stripe_stand_in``), not against Stripe."""

import datetime as dt
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from stripe_stand_in import StripeStandIn, running_stand_in

from engine.errors import InvalidRequest
from engine.payments import Charge, NoticeRefused, Said
from holdfast.payments.signatures import sign
from holdfast.payments.stripe import StripeProvider

NOW = dt.datetime(2027, 5, 1, tzinfo=dt.UTC)
SECRETS = ("whsec_new", "whsec_old")


@pytest.fixture(scope="module")
def running() -> Iterator[StripeStandIn]:
    with running_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def stand_in(running: StripeStandIn) -> StripeStandIn:
    running.intents.clear()
    running.refunds.clear()
    running.requests.clear()
    running.forget_keys()
    return running


@pytest.fixture
async def stripe(stand_in: StripeStandIn) -> AsyncIterator[StripeProvider]:
    async with httpx2.AsyncClient() as client:
        yield StripeProvider(stand_in.url, "sk_test_1", client, SECRETS)


def charge(method: str = "pm_card_visa", **members: Any) -> Charge:
    defaults: dict[str, Any] = {"key": str(uuid.uuid4()), "booking_id": "b~gig", "amount": 9000, "currency": "EUR"}
    return Charge(method=method, expires_at=NOW, **(defaults | members))


def with_ref(one: Charge, said: Said) -> Charge:
    return Charge(
        key=one.key,
        booking_id=one.booking_id,
        method=one.method,
        amount=one.amount,
        currency=one.currency,
        expires_at=one.expires_at,
        provider_ref=said.provider_ref,
    )


async def test_payment_is_created_and_confirmed_for_later_capture_under_its_own_key(
    stripe: StripeProvider, stand_in: StripeStandIn
) -> None:
    one = charge()
    said = await stripe.authorize(one)

    ((path, form, headers),) = stand_in.requests
    assert (said.outcome, said.provider_ref) == ("authorized", next(iter(stand_in.intents)))
    assert path == "/v1/payment_intents"
    assert headers["idempotency-key"] == one.key
    assert headers["authorization"] == "Bearer sk_test_1"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert (form["amount"], form["currency"], form["capture_method"], form["confirm"]) == (
        "9000",
        "eur",
        "manual",
        "true",
    )
    assert form["metadata[holdfast_payment]"] == one.key


async def test_declined_card_is_declined_for_its_reason(stripe: StripeProvider) -> None:
    said = await stripe.authorize(charge("pm_card_declined"))
    assert (said.outcome, said.reason) == ("declined", "insufficient_funds")


async def test_payment_that_the_bank_wants_confirmed_is_pending_with_the_place_to_go(stripe: StripeProvider) -> None:
    said = await stripe.authorize(charge("pm_3ds"))
    assert (said.outcome, said.redirect_url) == ("pending", "https://bank.example/3ds")


async def test_answer_that_is_lost_is_unknown_and_looked_up_by_asking_again(
    stripe: StripeProvider, stand_in: StripeStandIn
) -> None:
    one = charge()
    stand_in.failing = 1
    assert (await stripe.authorize(one)).outcome == "unknown"
    assert (await stripe.look_up(one)).outcome == "authorized"
    assert len(stand_in.intents) == 1


async def test_capture_takes_the_amount_once(stripe: StripeProvider, stand_in: StripeStandIn) -> None:
    one = charge()
    one = with_ref(one, await stripe.authorize(one))
    stand_in.failing = 1
    assert (await stripe.capture(one, 7000)).outcome == "unknown"
    said = await stripe.capture(one, 7000)
    assert (said.outcome, said.captured) == ("captured", 7000)
    assert (await stripe.look_up(one)).captured == 7000


async def test_void_lets_go_also_of_a_payment_whose_id_was_lost(
    stripe: StripeProvider, stand_in: StripeStandIn
) -> None:
    one = charge()
    stand_in.failing = 1
    await stripe.authorize(one)
    assert (await stripe.void(one)).outcome == "voided"
    assert [intent["status"] for intent in stand_in.intents.values()] == ["canceled"]


async def test_void_that_comes_too_late_says_what_was_taken(stripe: StripeProvider) -> None:
    one = charge()
    one = with_ref(one, await stripe.authorize(one))
    await stripe.capture(one, 9000)
    said = await stripe.void(one)
    assert (said.outcome, said.captured) == ("captured", 9000)


async def test_refund_is_made_once_and_never_more_than_was_taken(
    stripe: StripeProvider, stand_in: StripeStandIn
) -> None:
    one = charge()
    one = with_ref(one, await stripe.authorize(one))
    await stripe.capture(one, 9000)
    stand_in.failing = stand_in.lost_refunds = 1
    outcomes = [await stripe.refund(one, 5000, key="r1") for _ in range(4)]
    assert outcomes == ["unknown", "unknown", "done", "done"]
    assert [made["amount"] for made in stand_in.refunds] == [5000]
    assert await stripe.refund(one, 5000, key="r2") == "refused"


async def test_refund_whose_answer_was_lost_is_made_once_although_its_key_was_forgotten(
    stripe: StripeProvider, stand_in: StripeStandIn
) -> None:
    one = charge()
    one = with_ref(one, await stripe.authorize(one))
    await stripe.capture(one, 9000)
    assert await stripe.refund(one, 1000, key="r1") == "done"
    stand_in.lost_refunds = 1
    assert await stripe.refund(one, 1000, key="r2") == "unknown"
    stand_in.forget_keys()

    assert [await stripe.refund(one, 1000, key=key) for key in ("r2", "r1")] == ["done", "done"]
    assert [made["amount"] for made in stand_in.refunds] == [1000, 1000]
    stand_in.refunds[1]["status"] = "failed"  # the bank has sent it back
    assert await stripe.refund(one, 1000, key="r2") == "refused"


async def test_refund_that_an_earlier_version_asked_for_is_made_once(
    stripe: StripeProvider, stand_in: StripeStandIn
) -> None:
    one = charge()
    one = with_ref(one, await stripe.authorize(one))
    await stripe.capture(one, 9000)
    form = {"payment_intent": one.provider_ref or "", "amount": "5000"}
    async with httpx2.AsyncClient() as client:
        await client.post(f"{stand_in.url}/v1/refunds", data=form, headers={"idempotency-key": "r1"})

    assert await stripe.refund(one, 4000, key="r1") == "unknown"  # not that one
    assert await stripe.refund(one, 5000, key="r1") == "done"
    assert [made["amount"] for made in stand_in.refunds] == [5000]


async def test_key_that_was_used_with_other_parameters_is_unknown_for_money_may_be_set_aside(
    stripe: StripeProvider, stand_in: StripeStandIn
) -> None:
    """The return URL was changed between a payment and the look at it."""
    one = charge()
    stand_in.failing = 1
    assert (await stripe.authorize(one)).outcome == "unknown"
    async with httpx2.AsyncClient() as client:
        newer = StripeProvider(stand_in.url, "sk_test_1", client, SECRETS, return_url="https://shop.example/paid")
        assert (await newer.look_up(one)).outcome == "unknown"


async def test_server_that_is_not_there_is_unknown(stand_in: StripeStandIn) -> None:
    async with httpx2.AsyncClient() as client:
        nobody = StripeProvider("http://127.0.0.1:1", "sk", client, SECRETS)
        one = charge(provider_ref="pi_1")
        said = [await nobody.authorize(one), await nobody.capture(one, 1), await nobody.void(one)]
        assert {each.outcome for each in said} == {"unknown"}
        assert await nobody.refund(one, 1, key="r") == "unknown"


def event(type_: str = "payment_intent.amount_capturable_updated", **members: Any) -> bytes:
    intent = {"id": "pi_1", "status": "requires_capture", "metadata": {"holdfast_payment": "p1"}} | members
    return json.dumps({"id": "evt_1", "type": type_, "data": {"object": intent}}).encode()


def parse(stripe: StripeProvider, body: bytes, secret: str = "whsec_old") -> Any:
    headers = {b"stripe-signature": sign(body, secret, at=NOW).encode()}
    return stripe.parse_webhook(headers, body, now=NOW)


def test_webhook_says_what_has_become_of_our_payment() -> None:
    stripe = StripeProvider("http://stripe", "sk", None, SECRETS)  # type: ignore[arg-type]
    for secret in SECRETS:
        notice = parse(stripe, event(), secret)
        assert (notice.id, notice.key, notice.said.outcome) == ("evt_1", "p1", "authorized")
    assert parse(stripe, event("payment_intent.succeeded", status="succeeded", amount_received=9)).said.captured == 9


def test_webhook_of_anything_else_says_nothing() -> None:
    stripe = StripeProvider("http://stripe", "sk", None, SECRETS)  # type: ignore[arg-type]
    assert parse(stripe, event("charge.refunded")) is None
    assert parse(stripe, event("payment_intent.created", status="requires_payment_method")) is None
    assert parse(stripe, event(metadata={})) is None


@pytest.mark.parametrize("secrets", [(), ("another",)])
def test_webhook_is_refused_without_the_right_secret(secrets: tuple[str, ...]) -> None:
    stripe = StripeProvider("http://stripe", "sk", None, secrets)  # type: ignore[arg-type]
    with pytest.raises(NoticeRefused):
        parse(stripe, event())


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"x": 1}', "$.id"),
        (b"\xff", "$"),
        (b'{"id": "\\ud800", "type": "payment_intent.succeeded"}', "$.id"),
        (b'{"id": "evt_1", "type": "payment_intent.succeeded"}', "$.data"),
        (event().replace(b"evt_1", b""), "$.id"),
        (event().replace(b"evt_1", b"e" * 256), "$.id"),
        (event().replace(b"evt_1", b"a\\u0000b"), "$.id"),
        (event(metadata={"holdfast_payment": "p\0"}), "$.data.object.metadata.holdfast_payment"),
        (event(id="pi\0"), "$.data.object.id"),
        (event(amount_received=-1), "$.data.object.amount_received"),
        (event(amount_received=2**63), "$.data.object.amount_received"),
        (event(last_payment_error={"code": "a\0"}), "$.data.object.last_payment_error.code"),
    ],
)
def test_webhook_that_says_what_cannot_be_kept_is_an_invalid_request_once_it_is_signed(body: bytes, path: str) -> None:
    stripe = StripeProvider("http://stripe", "sk", None, SECRETS)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refused:
        parse(stripe, body)
    assert refused.value.path == path
    with pytest.raises(NoticeRefused):
        parse(stripe, body, "another")


def test_webhook_may_hold_what_is_not_kept() -> None:
    stripe = StripeProvider("http://stripe", "sk", None, SECRETS)  # type: ignore[arg-type]
    assert parse(stripe, event(description="a\0b", metadata={"holdfast_payment": "p1", "note": "\0"})).key == "p1"
