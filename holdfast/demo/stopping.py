"""Being asked to stop: at any moment of a piece of work, which is then cancelled and may clean up after itself."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_until_signal(work: Coroutine[Any, Any, int], *, on_second: Callable[[], None]) -> int:
    """Run *work* to its exit code; a signal cancels it, and the code is then 128 + the signal's number.

    The clean-up is waited for; further signals do not disturb it, but call *on_second*. Main thread only.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:
            task.cancel()
        else:
            on_second()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
