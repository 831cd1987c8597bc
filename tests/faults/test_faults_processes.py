"""An API process is killed at the worst of moments, and whoever repeats the request elsewhere gets the one result."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from checker import check, fault
from crowd import AFTER, WARM_UP, Crowd, crowd_buying
from http_calls import Answer, Connection, NoAnswer
from on_sale import OnSale, one_row
from proxy import Catch, Proxy
from recording import Operation, now
from rig import READY_WAIT_S, Process, Rig

import lua

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SCRIPTS = {"hold": "hold_places", "confirm": "confirm_hold", "book": "book_places"}
BEFORE_SCRIPT, AFTER_SCRIPT, BEFORE_COMMIT, AFTER_COMMIT, BEFORE_REPLY = (
    "before the script",
    "after the script",
    "before the commit",
    "after the commit",
    "before the reply",
)
CASES = [
    ("hold", [BEFORE_SCRIPT, AFTER_SCRIPT, BEFORE_REPLY]),
    ("confirm", [BEFORE_SCRIPT, AFTER_SCRIPT, BEFORE_COMMIT, AFTER_COMMIT, BEFORE_REPLY]),
    ("book", [BEFORE_SCRIPT, AFTER_SCRIPT, BEFORE_COMMIT, AFTER_COMMIT, BEFORE_REPLY]),
]


class Request(msgspec.Struct):
    """What a victim is asked, and a survivor again."""

    op: str
    customer: str
    path: str
    body: dict[str, Any]
    key: str


@pytest.mark.parametrize(("op", "points"), CASES, ids=[op for op, _ in CASES])
async def test_a_repetition_converges_when_an_api_process_is_killed(
    rig: Rig, report: Callable[..., None], op: str, points: list[str]
) -> None:
    async with rig.proxied(op) as proxies:
        victim = await rig.serve(workers=1, proxies=proxies, public=False)
        async with crowd_buying(rig, f"killed-{op}", clients=4, pause_s=0.05) as crowd:
            quiet = one_row(f"killed-{op}", 2 * len(points))
            await crowd.add_quiet(quiet)
            with fault() as window:
                for number, point in enumerate(points):
                    await _kill_at(
                        rig, crowd, point, await _make_request(rig, crowd, quiet, op, number), victim, proxies
                    )
            await crowd.until_operations(WARM_UP // 4)
        await victim.stop()

    figures = await check(rig, crowd, window)
    report(9, f"API process killed in {op}", figures, ", ".join(points))
    owners = await rig.database.fetch(
        "SELECT customer_id, count(*) FROM bookings WHERE customer_id LIKE $1 GROUP BY 1", f"victim-{op}-%"
    )
    assert [row["count"] for row in owners] == ([1] * len(points) if op != "hold" else [])


async def test_the_others_go_on_when_api_processes_are_killed_again_and_again(
    rig: Rig, report: Callable[..., None]
) -> None:
    async with crowd_buying(rig, "killed-workers") as crowd:
        await crowd.until_operations(WARM_UP)
        kills = 0
        with fault() as window:
            for _ in range(4):
                for worker in rig.apis[0].workers()[:1]:
                    worker.kill()
                    kills += 1
                await asyncio.sleep(1.0)
        await crowd.until_operations(AFTER)

    report(9, "API processes killed at random", await check(rig, crowd, window), f"{kills} of them")
    assert kills >= 3


async def _make_request(rig: Rig, crowd: Crowd, event: OnSale, op: str, number: int) -> Request:
    """A request for two seats that nobody else wants."""
    customer = f"victim-{op}-{number}"
    claim = {"items": [{"section": "box", "seats": list(event.seats["box"][2 * number :][:2])}]}
    if op == "hold":
        return Request(op, customer, f"/v1/events/{event.id}/holds", claim, uuid4().hex)
    if op == "book":
        return Request(op, customer, "/v1/bookings", {"event_id": event.id, **claim}, uuid4().hex)
    held = await rig.ask("POST", f"/v1/events/{event.id}/holds", customer=customer, body=claim, key=uuid4().hex)
    assert held.status == 201, held
    _record(crowd, event, "hold", customer, held, now())
    return Request(op, customer, "/v1/bookings", {"hold_id": held.json()["id"]}, uuid4().hex)


async def _kill_at(
    rig: Rig, crowd: Crowd, point: str, request: Request, victim: Process, proxies: tuple[Proxy, Proxy]
) -> None:
    """Ask an API process, kill it when it has got as far as *point*, and ask another one for the same."""
    invoked_at = now()
    await _until_ready(victim)  # its supervisor has started it again
    async with Proxy(0, int(victim.url.rpartition(":")[2])) as front:
        catch, caught_by = _set_trap(point, request, proxies, front)
        connection = Connection(f"http://127.0.0.1:{front.listen}")
        asking = asyncio.create_task(_ask(connection, rig, request))
        await catch.wait()
        for worker in victim.workers():
            worker.kill()
        caught_by.cut()  # what was caught on its way to a server must not arrive after all
        catch.open()
        assert await asking is None
    await _look(rig, point, request)
    answer = await rig.ask("POST", request.path, customer=request.customer, body=request.body, key=request.key)
    assert answer.status == 201, answer
    again = await rig.ask("POST", request.path, customer=request.customer, body=request.body, key=request.key)
    assert (again.status, again.json()["id"]) == (201, answer.json()["id"])
    assert again.headers[b"idempotent-replayed"] == b"true"
    _record(crowd, crowd.events[answer.json()["event_id"]], request.op, request.customer, answer, invoked_at)


async def _until_ready(victim: Process) -> None:
    async with asyncio.timeout(READY_WAIT_S):
        while True:
            connection = Connection(victim.url)
            with contextlib.suppress(NoAnswer):
                if (await connection.call("GET", "/readyz", token="")).status == 200:
                    return
            await asyncio.sleep(0.05)


def _set_trap(point: str, request: Request, proxies: tuple[Proxy, Proxy], front: Proxy) -> tuple[Catch, Proxy]:
    store, database = proxies
    sha, customer = lua.load(SCRIPTS[request.op]).sha, request.customer.encode()
    match point:
        case "before the script" | "after the script":
            return store.catch_next(sha, about=customer, forward=point == AFTER_SCRIPT), store
        case "before the commit" | "after the commit":
            # A usual booking is written and committed by one message, which names its customer.
            return database.catch_next(customer, forward=point == AFTER_COMMIT), database
        case _:
            return front.catch_next(b"POST ", forward=True), front


async def _look(rig: Rig, point: str, request: Request) -> None:
    """The process was killed where it was meant to be: the ledger has the booking only after the commit."""
    if request.op != "hold":
        written = await rig.database.value("SELECT count(*) FROM bookings WHERE customer_id = $1", request.customer)
        assert written == (point in (AFTER_COMMIT, BEFORE_REPLY))


async def _ask(connection: Connection, rig: Rig, request: Request) -> Answer | None:
    try:
        return await connection.call(
            "POST", request.path, token=rig.token(request.customer), body=request.body, key=request.key
        )
    except NoAnswer:
        return None
    finally:
        connection.close()


def _record(crowd: Crowd, event: OnSale, op: str, customer: str, answer: Answer, invoked_at: float) -> None:
    body = answer.json()
    crowd.recording.add(
        Operation(
            process=crowd.recording.new_process(),
            op=op,  # type: ignore[arg-type]
            event=event.id,
            customer=customer,
            invoked_at=invoked_at,
            completed_at=now(),
            outcome="ok",
            places=event.places_of(body),
            hold_id=body["id"],
            booking_id=None if op == "hold" else body["id"],
            status=answer.status,
            attempts=2,
        )
    )
