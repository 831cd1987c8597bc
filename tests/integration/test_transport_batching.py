"""Many callers over one connection: batches, order, errors, callers that go away."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.exceptions import NoScriptError, ResponseError
from transport_servers import ECHO, FAIL, INCREMENT, Script, Valkey, opened, running_valkey

from engine.transport import multiplexer
from engine.transport.errors import NotSent, OutcomeUnknown
from engine.transport.wire import pack_keys

CALLERS = 500
COUNTER = pack_keys([b"{t}:counter"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture
async def transport(server: Valkey) -> AsyncIterator[Any]:
    server.call("FLUSHALL")
    async with opened(server.unix_url) as opened_transport:
        yield opened_transport


async def test_evalsha_gives_each_of_many_callers_its_own_reply(transport: Any) -> None:
    async def call(caller: int) -> None:
        for turn in range(20):
            key, arg = b"{t}:%d" % caller, b"%d:%d" % (caller, turn)
            assert await transport.evalsha(ECHO, pack_keys([key]), [arg]) == [key, arg]

    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))


def comes(server: Valkey, key: bytes, value: bytes) -> bool:
    """Whether *key* has *value* within a second in which the event loop stands still."""
    until = time.monotonic() + 1
    while server.call("GET", key) != value and time.monotonic() < until:
        time.sleep(0.001)
    return bool(server.call("GET", key) == value)


async def test_call_that_is_begun_leaves_at_once_and_what_waits_before_it(server: Valkey, transport: Any) -> None:
    await transport.evalsha(INCREMENT, COUNTER, [])  # so that the script is known
    before = asyncio.ensure_future(transport.command("INCR", "early"))
    await asyncio.sleep(0)
    reply = transport.begin_evalsha(INCREMENT, COUNTER, [])
    assert comes(server, COUNTER.keys[0], b"2")  # though the turn of the loop has not ended
    assert server.call("GET", "early") == b"1"
    assert (await before, await reply) == (1, 2)


async def test_call_is_not_begun_behind_commands_that_fill_the_connection(server: Valkey, transport: Any) -> None:
    await transport.evalsha(INCREMENT, COUNTER, [])  # so that the script is known
    large = [asyncio.ensure_future(transport.command("SET", f"large:{n}", b"x" * 8_000_000)) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(NotSent):
        transport.begin_evalsha(INCREMENT, COUNTER, [])
    assert await asyncio.gather(*large) == [b"OK"] * 3
    assert await transport.evalsha(INCREMENT, COUNTER, []) == 2  # it has not been sent later, either


async def test_error_reply_to_a_call_that_is_begun_is_left_to_its_caller(server: Valkey, transport: Any) -> None:
    server.call("SCRIPT", "FLUSH")
    assert isinstance(await transport.begin_evalsha(INCREMENT, COUNTER, []), NoScriptError)
    assert await transport.evalsha(INCREMENT, COUNTER, []) == 1
    assert await transport.begin_evalsha(INCREMENT, COUNTER, []) == 2
    await transport.aclose()
    with pytest.raises(NotSent):
        transport.begin_evalsha(INCREMENT, COUNTER, [])


async def test_commands_submitted_together_run_in_the_order_of_submission(transport: Any) -> None:
    replies = await asyncio.gather(*(transport.command("RPUSH", "list", n) for n in range(CALLERS)))
    assert replies == list(range(1, CALLERS + 1))
    assert await transport.command("LRANGE", "list", 0, -1) == [b"%d" % n for n in range(CALLERS)]


async def test_commands_submitted_together_reach_the_server_in_few_reads(server: Valkey, transport: Any) -> None:
    await transport.command("PING")
    before = server.stat("total_reads_processed")
    await asyncio.gather(*(transport.command("SET", n, "v") for n in range(CALLERS)))
    assert server.stat("total_reads_processed") - before < CALLERS / multiplexer.SENT_AT_ONCE + 10


async def test_the_first_of_many_are_at_the_server_before_the_last_are_submitted(
    server: Valkey, transport: Any
) -> None:
    await transport.command("PING")
    calls = [transport.command("INCR", "early") for _ in range(2 * multiplexer.SENT_AT_ONCE)]
    for call in calls[:-1]:
        call.send(None)  # up to its submission, as the event loop would, but without giving it a turn
    deadline = time.monotonic() + 5
    while int(server.call("GET", "early") or 0) < multiplexer.SENT_AT_ONCE:
        assert time.monotonic() < deadline, "nothing left before the turn ended"
    assert int(server.call("GET", "early")) == multiplexer.SENT_AT_ONCE
    for call in calls:
        call.close()


async def test_only_one_connection_is_made_however_many_callers(server: Valkey, transport: Any) -> None:
    before = server.stat("total_connections_received")
    await asyncio.gather(*(transport.command("PING") for _ in range(CALLERS)))
    assert server.stat("total_connections_received") - before == 1  # the one that asks


async def test_error_reply_is_raised_to_its_caller_only(transport: Any) -> None:
    calls = [transport.evalsha(FAIL if n % 50 == 7 else INCREMENT, COUNTER, [b"caller-%d" % n]) for n in range(CALLERS)]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    failed = [n for n, reply in enumerate(replies) if isinstance(reply, Exception)]
    assert failed == [n for n in range(CALLERS) if n % 50 == 7]
    assert all(isinstance(replies[n], ResponseError) and f"caller-{n}" in str(replies[n]) for n in failed)
    # What met a server without the script is sent again, behind the others.
    assert sorted(reply for reply in replies if isinstance(reply, int)) == list(range(1, CALLERS - len(failed) + 1))


async def test_error_reply_that_resembles_a_redirection_is_raised_as_it_came(transport: Any) -> None:
    odd = Script("odd", b"#!lua\nreturn redis.error_reply('ASK somebody else')")
    with pytest.raises(ResponseError, match="ASK somebody else"):
        await transport.evalsha(odd, COUNTER, [])


async def test_script_is_loaded_again_when_the_server_forgot_it(server: Valkey, transport: Any) -> None:
    await transport.evalsha(INCREMENT, COUNTER, [])
    server.call("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(transport.evalsha(INCREMENT, COUNTER, []) for _ in range(CALLERS)))
    assert sorted(replies) == list(range(2, CALLERS + 2))


async def test_script_survives_being_flushed_again_and_again_under_load(server: Valkey, transport: Any) -> None:
    async def call() -> None:
        for _ in range(200):
            await transport.evalsha(INCREMENT, COUNTER, [])

    async def flush() -> None:
        for _ in range(50):
            await asyncio.to_thread(server.call, "SCRIPT", "FLUSH")

    await asyncio.gather(flush(), *(call() for _ in range(20)))
    assert int(server.call("GET", "{t}:counter")) == 20 * 200


async def test_script_the_server_cannot_compile_is_refused_to_its_caller(transport: Any) -> None:
    broken = Script("broken", b"#!lua\nthis is no Lua")
    with pytest.raises(ResponseError, match="compiling script"):
        await transport.evalsha(broken, COUNTER, [])
    assert await transport.evalsha(INCREMENT, COUNTER, []) == 1


async def test_script_with_a_wrong_digest_is_a_value_error(transport: Any) -> None:
    class Mislabelled:
        name, sha, source = "mislabelled", b"0" * 40, b"#!lua\nreturn 1"

    with pytest.raises(ValueError, match="mislabelled"):
        await transport.evalsha(Mislabelled(), COUNTER, [])


async def test_evalsha_sent_as_a_plain_command_raises_noscript(transport: Any) -> None:
    with pytest.raises(NoScriptError):
        await transport.command("EVALSHA", "0" * 40, 0)


async def test_cancelled_callers_leave_the_others_replies_in_order(transport: Any) -> None:
    async def call(caller: int) -> None:
        for turn in range(20):
            arg = b"%d:%d" % (caller, turn)
            assert (await transport.evalsha(ECHO, COUNTER, [arg]))[1] == arg

    tasks = [asyncio.create_task(call(caller)) for caller in range(CALLERS)]
    for turn in range(5):
        await asyncio.sleep(0.002)
        for task in tasks[turn::7]:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {type(None), asyncio.CancelledError}
    assert await transport.evalsha(ECHO, COUNTER, [b"after"]) == [b"{t}:counter", b"after"]


async def test_command_cancelled_before_its_batch_leaves_is_never_sent(server: Valkey, transport: Any) -> None:
    task = asyncio.create_task(transport.command("SET", "k", "v"))
    await asyncio.sleep(0)  # submitted; the batch leaves with the loop's next turn
    task.cancel()
    await transport.command("PING")
    assert server.call("GET", "k") is None


async def test_commands_far_larger_than_a_batch_arrive_whole(transport: Any) -> None:
    values = [bytes([65 + n]) * 1_000_000 for n in range(12)]
    await asyncio.gather(*(transport.command("SET", f"big{n}", value) for n, value in enumerate(values)))
    assert await asyncio.gather(*(transport.command("GET", f"big{n}") for n in range(12))) == values


async def test_more_commands_than_may_be_in_flight_are_all_answered(transport: Any) -> None:
    assert await transport.evalsha(INCREMENT, COUNTER, []) == 1
    replies = await asyncio.gather(*(transport.evalsha(INCREMENT, COUNTER, []) for _ in range(20_000)))
    assert replies == list(range(2, 20_002))


async def test_submitting_past_the_bound_is_refused_and_the_rest_is_served(
    transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexer, "QUEUE_MAX", 100)
    monkeypatch.setattr(multiplexer, "SENT_AT_ONCE", 1000)  # they wait for the end of the turn
    replies = await asyncio.gather(*(transport.command("PING") for _ in range(130)), return_exceptions=True)
    assert replies[:100] == [b"PONG"] * 100
    assert {type(reply) for reply in replies[100:]} == {NotSent}
    assert await transport.command("PING") == b"PONG"


@pytest.mark.parametrize(
    "parts", [("SELECT", 1), ("BLPOP", "k", 0), ("MULTI",), ("subscribe", "c"), ("CLIENT", "REPLY")]
)
async def test_command_that_would_change_the_shared_connection_is_refused(transport: Any, parts: Any) -> None:
    with pytest.raises(ValueError, match="shared connection"):
        await transport.command(*parts)


async def test_replies_are_bytes_integers_none_and_lists(transport: Any) -> None:
    assert await transport.command("HSET", "h", "f", 1) == 1
    assert await transport.command("HGETALL", "h") == [b"f", b"1"]
    assert await transport.command("GET", "missing") is None
    assert await transport.command("ZADD", "z", "1.5", "m") == 1
    assert await transport.command("ZSCORE", "z", "m") == b"1.5"


async def test_closing_fails_what_is_waiting_and_may_be_repeated(server: Valkey) -> None:
    async with opened(server.unix_url) as transport:
        server.freeze()
        try:
            sent = asyncio.create_task(transport.command("PING"))
            await asyncio.sleep(0.02)
            waiting = asyncio.create_task(transport.command("PING"))
            await asyncio.sleep(0)
            await transport.aclose()
            with pytest.raises(OutcomeUnknown):
                await sent
            with pytest.raises(NotSent):
                await waiting
        finally:
            server.thaw()
        await transport.aclose()
        with pytest.raises(NotSent, match="closed"):
            await transport.command("PING")


async def test_connection_carries_its_name_and_database(server: Valkey) -> None:
    async with opened(f"{server.unix_url}?db=3", client_name="holdfast-test") as transport:
        info = await transport.command("CLIENT", "INFO")
        assert b"name=holdfast-test" in info
        assert b" db=3 " in info
        assert b"resp=2" in info
