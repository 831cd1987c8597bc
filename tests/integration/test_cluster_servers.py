"""The cluster that a measurement runs on: it is what was asked for, and ends whatever becomes of the measurement."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from processes_under_test import are_gone, program, seconds_until

sys.path.append(str(Path(__file__).parents[2] / "loadtests"))  # programs, which are no package
from cluster_servers import running_primaries
from harness import Void
from measure_primaries import EVENTS, shares_of
from venues import definition, sellable

LOADTESTS = Path(__file__).parents[2] / "loadtests"


async def test_primaries_share_the_keys_and_are_gone_after_the_block(tmp_path: Path) -> None:
    async with running_primaries(tmp_path / "cluster", 3) as primaries:
        with primaries.open_client() as client:
            for number in range(60):
                client.hset(f"state-{number}", "held:0:0", 2)
            assert primaries.count_held(b"state-%d" % number for number in range(60)) == 120
            sizes = [client.dbsize(target_nodes=node) for node in client.get_primaries()]
        assert (len(sizes), sum(sizes), min(sizes) > 0) == (3, 60, True)
        assert primaries.cpu_s() > 0
        primaries.forget()
        with primaries.open_client() as client:
            assert client.dbsize(target_nodes="primaries") == 0
        guard = next(child for child in psutil.Process().children() if str(tmp_path / "cluster") in child.cmdline())
        started = [guard, *guard.children(recursive=True)]
        assert len(started) == 2 + 3  # the guard, the program, its servers

    assert are_gone(started)


async def test_cluster_that_does_not_start_is_void_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "cluster").write_text("in the way")

    with pytest.raises(Void, match=r"did not start[\s\S]*cluster"):
        async with running_primaries(tmp_path / "cluster", 1):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_primaries_end_when_the_measurement_is_ended(number: signal.Signals, tmp_path: Path) -> None:
    source = f"""
        import asyncio, sys
        from pathlib import Path
        sys.path.append({str(LOADTESTS)!r})
        from cluster_servers import running_primaries

        async def main():
            async with running_primaries(Path(sys.argv[1]), 1) as primaries:
                print(primaries.url, flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    with program(source, tmp_path / "cluster") as running:
        started = running.descendants()
        assert any("valkey-server" in each.cmdline()[0] for each in started)
        os.kill(running.pid, number)
        seconds_until(lambda: are_gone(started), within_s=30)


def test_events_of_the_measurement_are_spread_over_all_primaries() -> None:
    shares = shares_of([sellable(definition(f"event-{number}", places=1)) for number in range(EVENTS)], 3)

    assert sum(shares) == EVENTS
    assert min(shares) > EVENTS / 5
