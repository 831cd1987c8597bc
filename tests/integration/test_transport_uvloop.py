"""The same transport on the event loop that serves in production, whose sockets are not asyncio's."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from transport_servers import ECHO, INCREMENT, Proxy, Valkey, opened, running_valkey

from engine.transport.errors import OutcomeUnknown
from engine.transport.wire import pack_keys


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with running_valkey(tmp_path / "valkey") as valkey:
        yield valkey


def test_transport_keeps_order_and_outcomes_on_uvloop(server: Valkey) -> None:
    async def scenario() -> None:
        async with Proxy(server.port) as proxy, opened(proxy.url, reply_timeout_s=2) as transport:

            async def call(caller: int) -> None:
                for turn in range(20):
                    key, arg = b"{t}:%d" % caller, b"%d" % turn
                    assert await transport.evalsha(ECHO, pack_keys([key]), [arg]) == [key, arg]

            await asyncio.gather(*(call(caller) for caller in range(500)))
            large = b"x" * 3_000_000
            await asyncio.gather(*(transport.command("SET", f"large{n}", large) for n in range(5)))
            assert await transport.command("GET", "large4") == large
            proxy.mute()
            with pytest.raises(OutcomeUnknown, match="no reply"):
                await transport.evalsha(INCREMENT, pack_keys([b"once"]), [])
            assert await transport.command("DBSIZE") in (5, 6)
            proxy.cut()
            await asyncio.sleep(0.05)
            await transport.evalsha(INCREMENT, pack_keys([b"once"]), [])
            assert proxy.connection_count == 3

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
