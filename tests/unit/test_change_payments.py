"""A change that charges, and the settlement beside it, in every order, cut short anywhere: nobody pays for nothing.

The model has a booking of 100 that is paid for, of which some may be granted back, a change that makes it dearer by
50, one settler that goes on from what it has read before, and a customer who may cancel. Each step of each is atomic,
as a transaction or a provider's answer is; between any two all may stop, and then somebody else settles what is there.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from engine.bookings import PaymentStatus
from engine.payment_steps import (
    CHANGE_GRACE,
    Capture,
    Case,
    GiveUp,
    LookUp,
    OpenRefund,
    PaymentView,
    Refund,
    RefundView,
    Say,
    Step,
    Void,
    next_step,
)

NOW = dt.datetime(2027, 5, 1, tzinfo=dt.UTC)
STEPS_MAX = 40  # of a settlement of two payments
# As persistence.payments has them: from which states of the ledger a provider's word is news.
NEWS_FROM: dict[str, tuple[str, ...]] = {
    "declined": ("initiated",),
    "authorized": ("initiated", "declined"),
    "captured": ("initiated", "declined", "authorized", "voided"),
    "voided": ("initiated", "authorized"),
}


class Record(msgspec.Struct, frozen=True):
    """A payment as the ledger has it, and as its provider does (``absent``: never heard of)."""

    amount: int
    state: str
    provider: str
    captured: int = 0
    given_back: int = 0
    chosen: bool = False
    given_up: bool = False


class World(msgspec.Struct, frozen=True):
    """Everything there is; ``hand`` is what the settler is about to do, ``word`` what it is about to write down."""

    status: str
    amount: int
    refunded: int
    paid: Record
    extra: Record | None = None
    refunds: tuple[RefundView, ...] = ()
    payment_status: PaymentStatus = "completed"
    is_late: bool = False
    changer: str = "begin"
    changer_word: str = ""
    hand: Step | None = None
    seen: tuple[Any, ...] = ()
    word: tuple[str, str, int] | None = None

    def record(self, payment_id: str) -> Record:
        record = self.paid if payment_id == "paid" else self.extra
        assert record is not None
        return record

    def having(self, payment_id: str, **members: Any) -> "World":
        changed = msgspec.structs.replace(self.record(payment_id), **members)
        return msgspec.structs.replace(self, **{payment_id: changed})

    def case(self) -> Case:
        return Case(
            status=self.status,
            payment_status=self.payment_status,
            amount=self.amount,
            refunded=self.refunded,
            was_confirmed=self.status != "pending",
            expires_at=None,
            waits_for_late=True,
            now=NOW + (2 * CHANGE_GRACE if self.is_late else dt.timedelta()),
            payments=[
                PaymentView(
                    id=name,
                    state=one.state,  # type: ignore[arg-type]
                    chosen=one.chosen,
                    amount=one.amount,
                    captured=one.captured if one.state == "captured" else 0,
                    created_at=NOW,
                    awaits_change=name == "extra" and not one.chosen and not one.given_up,
                )
                for name, one in (("paid", self.paid), ("extra", self.extra))
                if one is not None
            ],
            refunds=self.refunds,
        )


def paid_for(*, status: str = "confirmed", refunded: int = 0) -> World:
    is_taken = status == "confirmed"
    state, captured = ("captured", 100) if is_taken else ("authorized", 0)
    record = Record(amount=100, state=state, provider=state, captured=captured, chosen=True)
    return World(status, 100, refunded, record, payment_status="completed" if is_taken else "held")


def noted(world: World, payment_id: str, outcome: str, captured: int = 0) -> World:
    """The provider's word, written down if it is news."""
    if world.record(payment_id).state not in NEWS_FROM.get(outcome, ()):
        return world
    return world.having(payment_id, state=outcome, captured=captured if outcome == "captured" else 0)


def after_changer(world: World, outcome: str) -> World:
    """The change has gone one step further."""
    replace = msgspec.structs.replace
    is_changeable = world.status in ("pending", "confirmed")
    match world.changer:
        case "begin" if is_changeable:
            return replace(world, changer="authorize", extra=Record(50, "initiated", "absent"))
        case "authorize":
            if world.record("extra").provider == "absent":
                world = world.having("extra", provider=outcome, captured=50 if outcome == "captured" else 0)
            return replace(world, changer="note", changer_word=world.record("extra").provider)
        case "note":
            world = noted(world, "extra", world.changer_word, world.record("extra").captured)
            return replace(world, changer="choose" if world.changer_word in ("authorized", "captured") else "over")
        case "choose":
            extra = world.record("extra")
            is_to_be_had = extra.state in ("authorized", "captured") and not extra.given_up
            if is_changeable and is_to_be_had:
                world = replace(world.having("extra", chosen=True), amount=world.amount + 50)
    return replace(world, changer="over")


def after_deed(world: World) -> World:
    """The settler has done what it had in hand: at a provider, or in the ledger, which looks once more."""
    step, replace = world.hand, msgspec.structs.replace
    is_as_seen = world.seen == (world.status, world.amount, world.refunded, world.refunds)
    world = replace(world, hand=None)
    match step:
        case LookUp(name):
            return replace(world, word=(name, world.record(name).provider, world.record(name).captured))
        case Void(name):
            if world.record(name).provider in ("absent", "authorized"):
                world = world.having(name, provider="voided")
            return replace(world, word=(name, world.record(name).provider, world.record(name).captured))
        case Capture(name, amount):
            if world.record(name).provider == "authorized":
                world = world.having(name, provider="captured", captured=amount)
            return replace(world, word=(name, world.record(name).provider, world.record(name).captured))
        case GiveUp(name) if not world.record(name).chosen:
            return world.having(name, given_up=True)
        case OpenRefund(name, amount) if is_as_seen:
            made = RefundView(id=str(len(world.refunds)), payment_id=name, amount=amount, state="due")
            return replace(world, refunds=(*world.refunds, made))
        case Refund(refund_id):
            (refund,) = [one for one in world.refunds if one.id == refund_id and one.state == "due"] or [None]
            if refund is None:
                return world
            record = world.record(refund.payment_id)
            assert refund.amount <= record.captured - record.given_back, "more goes back than was taken"
            done = tuple(replace(one, state="done") if one is refund else one for one in world.refunds)
            return replace(world.having(refund.payment_id, given_back=record.given_back + refund.amount), refunds=done)
        case Say(said) if is_as_seen:
            return replace(world, payment_status=said)
    return world


def after_reading(world: World, looked_up: frozenset[str]) -> World:
    """The settler has read the case, and knows what to do."""
    step = next_step(world.case(), looked_up)
    return msgspec.structs.replace(world, hand=step, seen=(world.status, world.amount, world.refunded, world.refunds))


def after_settler(world: World) -> World:
    if world.word is not None:
        return noted(msgspec.structs.replace(world, word=None), *world.word)
    if world.hand is not None:
        return after_deed(world)
    # Whether it has looked a payment up before makes no difference to what it may do next: both are tried.
    return after_reading(world, frozenset({"extra"}))


def successors(world: World, outcome: str) -> Iterator[World]:
    if world.changer != "over":
        yield after_changer(world, outcome)
    yield after_settler(world)
    if world.word is None and world.hand is None:
        yield after_reading(world, frozenset())
    if not world.is_late:
        yield msgspec.structs.replace(world, is_late=True)
    if world.status == "pending":
        yield msgspec.structs.replace(world, status="confirmed")
    if world.status in ("pending", "confirmed"):
        left = world.amount - world.refunded
        granted = left // 2 if world.status == "confirmed" else left
        yield msgspec.structs.replace(world, status="cancelled", refunded=world.refunded + granted)


def recovered(world: World) -> World:
    """Everybody is gone, time has passed, and somebody settles what is there."""
    world = msgspec.structs.replace(world, is_late=True, hand=None, word=None)
    if world.status == "pending":
        world = msgspec.structs.replace(world, status="confirmed")
    looked_up: frozenset[str] = frozenset()
    for _ in range(STEPS_MAX):
        world = after_reading(world, looked_up)
        if world.hand is None:
            return world
        if isinstance(world.hand, LookUp):
            looked_up |= {world.hand.payment_id}
        world = after_deed(world)
        if world.word is not None:
            world = after_settler(world)
    raise AssertionError(f"no end: {world}")


def check(world: World) -> None:
    records = [one for one in (world.paid, world.extra) if one is not None]
    assert not any(one.provider == "authorized" for one in records), world
    kept = sum(one.captured - one.given_back for one in records if one.provider == "captured")
    assert kept == world.amount - world.refunded, world
    expected = "completed" if kept == world.amount else "partially_refunded"
    assert world.payment_status == (expected if kept else "refunded"), world


@pytest.mark.parametrize("refunded", [0, 40, 80])
@pytest.mark.parametrize("status", ["confirmed", "pending"])
@pytest.mark.parametrize("outcome", ["authorized", "captured", "declined"])
def test_whatever_is_cut_short_in_whatever_order_the_money_is_right_in_the_end(
    outcome: str, status: str, refunded: int
) -> None:
    begin = paid_for(status=status, refunded=refunded)
    seen, frontier, changed = {begin}, [begin], 0
    while frontier:
        world = frontier.pop()
        ended = recovered(world)
        check(ended)
        changed += ended.amount == 150
        if world.changer == "authorize" and ended.extra is not None:  # the call arrives when all is over
            late = after_changer(msgspec.structs.replace(ended, changer="authorize"), outcome)
            check(recovered(late))
        for following in successors(world, outcome):
            if following not in seen:
                seen.add(following)
                frontier.append(following)
    assert bool(changed) == (outcome != "declined")
    assert len(seen) > 100
