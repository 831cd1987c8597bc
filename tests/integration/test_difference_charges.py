"""Changes of bookings that are paid for, with a real simulator: what is dearer is charged, what is cheaper refunded."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
from api_app import Person, claim, composed, connected, open_event
from payment_lab import RunningSimulator, check_money, running_simulator, simulated, until

from api.services import Services
from persistence.database import driver_connection

OWN = {"provider": "simulator", "method": "sim_ok"}


def by(method: str) -> dict[str, Any]:
    return {"payment": {"provider": "simulator", "method": method}}


class Crash(BaseException):
    """The process is gone."""


class Till:
    """An application over real servers, a provider, and the people who call."""

    def __init__(self, services: Services, client: httpx2.AsyncClient, simulator: RunningSimulator) -> None:
        self.services = services
        self.simulator = simulator
        self.ana = Person(client, "ana", "customer")
        self.ben = Person(client, "ben", "customer")
        self.olga = Person(client, "olga", "organizer")
        self.root = Person(client, "root", "admin")

    async def paid(self, *seats: str, floor: int = 0, **policy: Any) -> dict[str, Any]:
        """A booking of ana's, paid for with ``sim_ok``, on an event of its own: seats are 9000, the floor is 4500."""
        event_id = await open_event(self.olga, policy={"payment": "required"} | policy)
        order = {"event_id": event_id, "payment": OWN} | claim(*seats, floor=floor)
        booking = ok(await self.ana.post("/v1/bookings", order), 201)
        await until(lambda: self._is_said(booking["id"]))
        return booking

    async def change(
        self, booking: dict[str, Any], *seats: str, floor: int = 0, key: str | None = None, **members: Any
    ) -> httpx2.Response:
        headers = {} if key is None else {"idempotency_key": key}
        return await self.ana.patch(f"/v1/bookings/{booking['id']}", claim(*seats, floor=floor) | members, **headers)

    async def show(self, booking: dict[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = ok(await self.olga.get(f"/v1/bookings/{booking['id']}"))
        return shown

    def ledger(self, booking: dict[str, Any]) -> list[tuple[str, int, int, int]]:
        """What the provider has of it, payment by payment: status, amount, taken, given back."""
        names = ("status", "amount", "captured", "refunded")
        return [tuple(one[name] for name in names) for one in self.simulator.of(booking["id"])]  # type: ignore[misc]

    async def postgres(self, statement: str) -> list[Any]:
        async with driver_connection(self.services.bookings.engine) as connection:
            rows: list[Any] = await connection.fetch(statement)
            return rows

    async def come_back(self, *, minutes: int = 11) -> None:
        """Somebody else looks at what is due, when the time for it has come."""
        for _ in range(2):
            await self.postgres(f"UPDATE payments SET created_at = created_at - interval '{minutes} minutes'")
            await self.postgres("UPDATE payments SET check_at = now() WHERE check_at IS NOT NULL")
            for booking_id in await self.services.checkout.store.take_due(limit=10):
                await self.services.checkout.settler.settle(booking_id)

    async def assert_whole(self, booking: dict[str, Any]) -> None:
        """Money and places agree, everywhere."""
        await check_money(self.services.bookings.engine, self.simulator)
        audit = ok(await self.root.get(f"/v1/admin/audit?event_id={booking['event_id']}"))
        assert audit["drift"] == 0, audit["differences"]

    async def _is_said(self, booking_id: str) -> bool:
        shown = ok(await self.olga.get(f"/v1/bookings/{booking_id}"))
        return shown["payment_status"] in ("held", "completed") and (
            shown["status"] == "pending" or shown["payment_status"] == "completed"
        )


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
async def till(redis_url: str, database_url: str, simulator: RunningSimulator) -> AsyncIterator[Till]:
    simulator.forget()
    async with httpx2.AsyncClient() as http:
        providers = {"simulator": simulated(simulator, http)}
        async with (
            composed(redis_url, database_url, providers=providers, confirm_timeout_s=1.0) as services,
            connected(services) as client,
        ):
            yield Till(services, client, simulator)


def ok(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def seats_of(booking: dict[str, Any]) -> list[str]:
    return sorted(seat for item in booking["items"] for seat in item["seats"] or ())


@pytest.mark.parametrize("members", [{}, by("sim_ok"), by("sim_twice"), by("sim_slow_100")])
async def test_dearer_places_are_charged_by_the_bookings_own_method_or_by_another(
    till: Till, members: dict[str, Any]
) -> None:
    booking = await till.paid("A-1")

    changed = ok(await till.change(booking, "A-1", "A-2", **members))

    assert (seats_of(changed), changed["amount"], changed["refunded"]) == (["A-1", "A-2"], 18000, 0)
    assert (changed["status"], changed["payment_status"]) == ("confirmed", "completed")
    assert till.ledger(booking) == [("captured", 9000, 9000, 0), ("captured", 9000, 9000, 0)]
    method = members.get("payment", OWN)["method"]
    assert till.simulator.of(booking["id"])[1]["method"] == method
    await till.assert_whole(booking)


@pytest.mark.parametrize("erased", [False, True])
async def test_receiver_of_a_booking_cannot_spend_what_its_giver_has_paid_with(till: Till, erased: bool) -> None:
    booking = await till.paid("A-1")
    path = f"/v1/bookings/{booking['id']}"
    ok(await till.ana.post(f"{path}/transfer", {"customer_id": "ben"}))
    if erased:  # what people have said about themselves goes, and not whose the booking was
        ok(await till.ben.delete("/v1/customers/ben/personal-data"))

    refused = await till.ben.patch(path, claim("A-1", "A-2"))

    assert (refused.status_code, refused.json()["path"]) == (422, "$.payment")
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)]
    ok(await till.ben.patch(path, claim("A-1", "A-2") | {"payment": OWN}))
    ok(await till.ben.patch(path, claim("A-1", "A-2", "A-3")))  # by what ben has paid with

    async def all_taken() -> bool:
        return till.ledger(booking) == [("captured", 9000, 9000, 0)] * 3

    await until(all_taken)
    await till.assert_whole(booking)


async def test_declined_difference_answers_402_and_the_booking_keeps_its_places(till: Till) -> None:
    booking = await till.paid("A-1")
    for replayed in (None, "true"):  # the key is answered again as it was
        refused = await till.change(booking, "A-2", "A-3", **by("sim_declined"), key="k")
        assert (refused.status_code, refused.json()["code"]) == (402, "payment-declined")
        assert (refused.json()["reason"], refused.headers.get("idempotent-replayed")) == ("card_declined", replayed)
    assert len(till.ledger(booking)) == 2
    reused = await till.change(booking, "A-3", "A-4", **by("sim_declined"), key="k")
    assert reused.json()["code"] == "idempotency-key-reused"

    assert seats_of(await till.show(booking)) == ["A-1"]
    ok(await till.ben.post(f"/v1/events/{booking['event_id']}/holds", claim("A-2", "A-3")), 201)
    await till.assert_whole(booking)
    changed = ok(await till.change(booking, "A-1", "A-4", **by("sim_ok")))
    assert (seats_of(changed), changed["payment_status"]) == (["A-1", "A-4"], "completed")
    await till.assert_whole(booking)


async def test_declined_difference_is_not_the_answer_to_the_order_that_was_paid(till: Till) -> None:
    event_id = await open_event(till.olga, policy={"payment": "required"})
    order = {"event_id": event_id, "payment": OWN} | claim("A-1")
    booking = ok(await till.ana.post("/v1/bookings", order, idempotency_key="k"), 201)
    assert (await till.change(booking, "A-1", "A-2", **by("sim_declined"))).status_code == 402
    again = await till.ana.post("/v1/bookings", order, idempotency_key="k")
    assert (ok(again, 201)["id"], again.headers["idempotent-replayed"]) == (booking["id"], "true")


async def test_payment_is_named_with_places_and_by_a_provider_that_there_is(till: Till) -> None:
    booking = await till.paid("A-1")
    alone = await till.ana.patch(f"/v1/bookings/{booking['id']}", by("sim_ok") | {"notes": "aisle"})
    assert (alone.status_code, alone.json()["path"]) == (422, "$.payment")
    unknown = await till.change(booking, "A-1", "A-2", payment={"provider": "nobody", "method": "m"})
    assert (unknown.status_code, unknown.json()["path"]) == (422, "$.payment.provider")
    assert len(till.ledger(booking)) == 1
    await till.assert_whole(booking)


async def test_repetition_with_the_same_key_charges_once(till: Till) -> None:
    booking = await till.paid("A-1")
    for replayed in (None, "true"):
        answer = await till.change(booking, "A-1", "A-2", key="k")
        assert (ok(answer)["amount"], answer.headers.get("idempotent-replayed")) == (18000, replayed)
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)] * 2
    await till.assert_whole(booking)


async def test_requests_with_the_same_key_at_once_charge_once(till: Till) -> None:
    booking = await till.paid("A-1")
    answers = await asyncio.gather(
        *[till.change(booking, "A-1", "A-2", **by("sim_slow_50"), key="k") for _ in range(3)]
    )
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert {answer.json()["amount"] for answer in answers if answer.status_code == 200} == {18000}
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)] * 2
    await till.assert_whole(booking)


async def test_changes_at_once_are_both_charged_or_told_why_not(till: Till) -> None:
    booking = await till.paid("A-1")
    wishes = [("A-1", "A-2"), ("A-1", "A-2", "A-3"), ("A-1", "A-2", "A-3", "A-4")]
    answers = await asyncio.gather(*[till.change(booking, *wish) for wish in wishes])
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.status_code == 200 for answer in answers)
    await till.come_back()
    await till.assert_whole(booking)


async def test_difference_whose_answer_is_lost_is_open_and_the_same_request_goes_on_with_it(till: Till) -> None:
    booking = await till.paid("A-1")
    lost = await till.change(booking, "A-1", "A-2", **by("sim_timeout"), key="k")
    assert (lost.status_code, lost.json()["code"], lost.headers["retry-after"]) == (503, "payment-open", "5")
    assert seats_of(await till.show(booking)) == ["A-1"]

    changed = ok(await till.change(booking, "A-1", "A-2", **by("sim_timeout"), key="k"))

    assert (seats_of(changed), changed["payment_status"]) == (["A-1", "A-2"], "completed")
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)] * 2
    await till.assert_whole(booking)


async def test_difference_that_nobody_comes_back_for_is_let_go(till: Till) -> None:
    booking = await till.paid("A-1")
    assert (await till.change(booking, "A-1", "A-2", **by("sim_timeout"))).status_code == 503
    await till.come_back(minutes=2)
    assert till.ledger(booking)[1][0] == "authorized"  # it may be asked for again

    await till.come_back()

    assert till.ledger(booking)[1][0] == "voided"
    shown = await till.show(booking)
    assert (seats_of(shown), shown["amount"], shown["payment_status"]) == (["A-1"], 9000, "completed")
    await till.assert_whole(booking)
    assert await till.postgres("SELECT id FROM payments WHERE check_at IS NOT NULL") == []


async def test_difference_that_is_paid_on_another_page_is_taken_when_the_change_is_asked_for_again(till: Till) -> None:
    booking = await till.paid("A-1")
    sent_away = await till.change(booking, "A-1", "A-2", **by("sim_redirect"))
    assert (sent_away.status_code, sent_away.json()["code"]) == (503, "payment-open")
    async with httpx2.AsyncClient() as bank:
        await bank.post(sent_away.json()["redirect_url"], data={"outcome": "ok"})

    changed = ok(await till.change(booking, "A-1", "A-2", **by("sim_redirect")))

    assert (seats_of(changed), changed["payment_status"]) == (["A-1", "A-2"], "completed")
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)] * 2
    await till.assert_whole(booking)


async def test_change_while_the_provider_is_down_is_told_so_and_is_made_when_it_is_back(till: Till) -> None:
    booking = await till.paid("A-1")
    till.simulator.set_faults(down=True)
    assert (await till.change(booking, "A-1", "A-2")).json()["code"] == "payment-open"
    till.simulator.set_faults()
    assert ok(await till.change(booking, "A-1", "A-2"))["payment_status"] == "completed"
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)] * 2
    await till.assert_whole(booking)


# --- what goes back ---------------------------------------------------------------------------------------------------


async def test_cheaper_places_are_refunded_from_the_newest_payment(till: Till) -> None:
    booking = await till.paid("A-1")
    ok(await till.change(booking, "A-1", "A-2"))

    cheaper = ok(await till.change(booking, "A-1", floor=1))

    assert (cheaper["amount"], cheaper["refunded"]) == (18000, 4500)
    assert till.ledger(booking) == [("captured", 9000, 9000, 0), ("captured", 9000, 9000, 4500)]
    assert (await till.show(booking))["payment_status"] == "partially_refunded"
    dearer = ok(await till.change(booking, "A-1", "A-2"))
    assert (dearer["amount"], dearer["refunded"]) == (22500, 4500)
    assert till.ledger(booking)[2] == ("captured", 4500, 4500, 0)
    await till.assert_whole(booking)


async def test_places_given_up_one_after_the_other_give_back_as_much_as_all_at_once(till: Till) -> None:
    tiers = [{"hours_before": 0, "percent": 80}]
    whole, in_parts = await till.paid(floor=4, refunds=tiers), await till.paid(floor=4, refunds=tiers)
    for count, refunded in ((3, 3600), (2, 7200), (1, 10800)):
        changed = ok(await till.change(in_parts, floor=count))
        assert (changed["amount"], changed["refunded"]) == (18000, refunded)
    quote = ok(await till.ana.get(f"/v1/bookings/{in_parts['id']}/refund-quote"))
    assert quote == {"percent": 80, "amount": 3600, "tier": tiers[0]}

    for booking in (whole, in_parts):
        cancelled = ok(await till.ana.post(f"/v1/bookings/{booking['id']}/cancel", {"reason": "ill"}))
        assert (cancelled["amount"], cancelled["refunded"]) == (18000, 14400)
        await till.come_back()
        assert till.ledger(booking) == [("captured", 18000, 18000, 14400)]
        await till.assert_whole(booking)


async def test_refund_is_made_over_both_payments_the_newest_first(till: Till) -> None:
    booking = await till.paid("A-1")
    ok(await till.change(booking, "A-1", floor=2))
    refund = {"amount": 6000, "reason": "The heating failed"}
    ok(await till.olga.post(f"/v1/bookings/{booking['id']}/refund", refund))
    assert till.ledger(booking) == [("captured", 9000, 9000, 0), ("captured", 9000, 9000, 6000)]
    ok(await till.olga.post(f"/v1/bookings/{booking['id']}/refund", refund))
    assert till.ledger(booking) == [("captured", 9000, 9000, 3000), ("captured", 9000, 9000, 9000)]
    assert (await till.show(booking))["payment_status"] == "partially_refunded"
    await till.assert_whole(booking)


@pytest.mark.parametrize(
    ("who", "percent", "given_back", "payment_status"),
    [
        ("ana", 25, (0, 4500), "partially_refunded"),
        ("ana", 75, (4500, 9000), "partially_refunded"),
        ("ana", 100, (9000, 9000), "refunded"),
        ("olga", 25, (9000, 9000), "refunded"),
    ],
)
async def test_cancellation_gives_back_over_both_payments_what_it_grants(
    till: Till, who: str, percent: int, given_back: tuple[int, int], payment_status: str
) -> None:
    booking = await till.paid("A-1", refunds=[{"hours_before": 0, "percent": percent}])
    ok(await till.change(booking, "A-1", "A-2"))

    cancelled = ok(await getattr(till, who).post(f"/v1/bookings/{booking['id']}/cancel", {}))

    assert (cancelled["status"], cancelled["payment_status"]) == ("cancelled", payment_status)
    assert tuple(one[3] for one in till.ledger(booking)) == given_back
    await till.assert_whole(booking)


async def test_booking_that_was_given_back_whole_is_charged_for_what_it_gets_then(till: Till) -> None:
    booking = await till.paid("A-1")
    ok(await till.olga.post(f"/v1/bookings/{booking['id']}/refund", {"amount": 9000, "reason": "sorry"}))
    changed = ok(await till.change(booking, "A-1", "A-2"))
    assert (changed["amount"], changed["refunded"], changed["payment_status"]) == (18000, 9000, "partially_refunded")
    assert till.ledger(booking) == [("captured", 9000, 9000, 9000), ("captured", 9000, 9000, 0)]
    await till.assert_whole(booking)


# --- while nobody has decided -----------------------------------------------------------------------------------------


async def test_difference_of_a_request_is_set_aside_and_taken_with_the_rest_at_its_approval(till: Till) -> None:
    booking = await till.paid("A-1", approval="manual")
    changed = ok(await till.change(booking, "A-1", "A-2"))
    assert (changed["status"], changed["payment_status"], changed["amount"]) == ("pending", "held", 18000)
    await till.come_back()
    assert till.ledger(booking) == [("authorized", 9000, 0, 0)] * 2
    await till.assert_whole(booking)

    approved = ok(await till.olga.post(f"/v1/bookings/{booking['id']}/approve", {}))

    assert (approved["status"], approved["payment_status"]) == ("confirmed", "completed")
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)] * 2
    await till.assert_whole(booking)


async def test_rejection_of_a_request_lets_both_payments_go(till: Till) -> None:
    booking = await till.paid("A-1", approval="manual")
    ok(await till.change(booking, "A-1", "A-2"))
    rejected = ok(await till.olga.post(f"/v1/bookings/{booking['id']}/reject", {"organizer_notes": "full"}))
    assert rejected["payment_status"] == "refunded"
    assert till.ledger(booking) == [("voided", 9000, 0, 0)] * 2
    await till.assert_whole(booking)


async def test_request_that_becomes_cheaper_and_dearer_takes_what_it_costs_in_the_end(till: Till) -> None:
    booking = await till.paid("A-1", "A-2", approval="manual")
    ok(await till.change(booking, "A-1"))
    ok(await till.change(booking, "A-1", floor=1))
    ok(await till.olga.post(f"/v1/bookings/{booking['id']}/approve", {}))
    shown = await till.show(booking)
    taken = sum(captured - refunded for _, _, captured, refunded in till.ledger(booking))
    assert shown["amount"] - shown["refunded"] == taken == 13500
    await till.assert_whole(booking)


# --- cut short --------------------------------------------------------------------------------------------------------

POINTS: dict[str, Callable[[Till], Any]] = {
    "authorize": lambda till: till.services.checkout.providers["simulator"],
    "note": lambda till: till.services.checkout.store,
    "charge_difference": lambda till: till.services.places._charger,
    "_decide": lambda till: till.services.places,
    "capture": lambda till: till.services.checkout.providers["simulator"],
    "say": lambda till: till.services.checkout.store,
}


def crashing(target: Any, name: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process die before or after its first call of *name*."""
    real = getattr(target, name)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            await real(*args, **kwargs)
        raise Crash(name)

    monkeypatch.setattr(target, name, dying)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", POINTS)
async def test_change_that_is_cut_short_is_made_and_paid_for_or_neither(till: Till, name: str, when: str) -> None:
    booking = await till.paid("A-1")
    with pytest.MonkeyPatch.context() as monkeypatch:
        crashing(POINTS[name](till), name, when, monkeypatch)
        with contextlib.suppress(Crash):
            await till.change(booking, "A-1", "A-2")

    is_made = seats_of(await till.show(booking)) == ["A-1", "A-2"]
    assert is_made == ((name, when) == ("_decide", "after") or name in ("capture", "say"))
    await till.come_back()

    ended = await till.show(booking)
    assert (seats_of(ended), ended["amount"]) == ((["A-1", "A-2"], 18000) if is_made else (["A-1"], 9000))
    assert ended["payment_status"] == "completed"
    await check_money(till.services.bookings.engine, till.simulator)


@pytest.mark.parametrize("name", ["authorize", "note", "charge_difference"])
async def test_change_that_was_cut_short_goes_on_with_its_payment_when_it_is_asked_for_again(
    till: Till, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.place_changes.RESERVED_MS", 40)
    booking = await till.paid("A-1")
    with pytest.MonkeyPatch.context() as patched:
        crashing(POINTS[name](till), name, "after", patched)
        with pytest.raises(Crash):
            await till.change(booking, "A-1", "A-2", key="k")

    changed = ok(await till.change(booking, "A-1", "A-2", key="k"))

    assert (seats_of(changed), changed["payment_status"]) == (["A-1", "A-2"], "completed")
    assert till.ledger(booking) == [("captured", 9000, 9000, 0)] * 2
    await till.assert_whole(booking)


async def test_change_that_finds_its_payment_given_up_pays_with_another(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    booking = await till.paid("A-1")
    charger = till.services.places._charger
    assert charger is not None
    real, pending = charger.charge_difference, [None]

    async def charge_difference(*args: Any) -> str:
        payment_id = await real(*args)
        if pending:
            pending.pop()
            await till.come_back()
        return payment_id

    monkeypatch.setattr(charger, "charge_difference", charge_difference)
    changed = ok(await till.change(booking, "A-1", "A-2"))

    assert (changed["amount"], changed["payment_status"]) == (18000, "completed")
    assert [one[0] for one in till.ledger(booking)] == ["captured", "voided", "captured"]
    await till.assert_whole(booking)


async def test_cancellation_between_the_charge_and_the_change_lets_the_difference_go(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    booking = await till.paid("A-1")
    charger = till.services.places._charger
    assert charger is not None
    real = charger.charge_difference

    async def charge_difference(*args: Any) -> str:
        payment_id = await real(*args)
        ok(await till.olga.post(f"/v1/bookings/{booking['id']}/cancel", {}))
        return payment_id

    monkeypatch.setattr(charger, "charge_difference", charge_difference)
    refused = await till.change(booking, "A-1", "A-2")

    assert (refused.status_code, refused.json()["code"]) == (409, "invalid-transition")
    assert till.ledger(booking) == [("captured", 9000, 9000, 9000), ("voided", 9000, 0, 0)]
    await till.assert_whole(booking)


async def test_payments_of_one_booking_have_an_end(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence.difference_charges.ATTEMPTS_MAX", 2)
    booking = await till.paid("A-1")
    assert (await till.change(booking, "A-1", "A-2", **by("sim_declined"))).status_code == 402
    refused = await till.change(booking, "A-1", "A-2")
    assert (refused.status_code, refused.json()["limit"]) == (409, "payment_attempts")
