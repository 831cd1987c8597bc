"""One reconciler process: ``python -m holdfast.reconciler``, started by ``holdfast serve`` beside the API processes.

Its settings come as a worker's do, whole and as JSON, in ``HOLDFAST_SETTINGS``.
"""

import asyncio
import os
import signal
import sys

from holdfast.collector import paused_collector, spare_the_collector

with paused_collector():
    import structlog
    import uvloop

    from holdfast.compose import open_reconciler
    from holdfast.figures_board import Seat, reconciler_seat
    from holdfast.logs import configure_logs
    from holdfast.settings import SETTINGS_VARIABLE, Settings, decode_settings
    from holdfast.unreachable import unreachable_in_words

logger = structlog.get_logger("holdfast.reconciler")


def main() -> int:
    """Reconcile until SIGTERM."""
    settings = decode_settings(os.environ.pop(SETTINGS_VARIABLE))
    configure_logs(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    try:
        await reconcile_until_told_to_stop(settings, reconciler_seat(os.environ))
    except Exception as error:
        reason = unreachable_in_words(error) or str(error)
        logger.error("reconciler cannot work", error=type(error).__name__, reason=reason)
        return 1
    return 0


async def reconcile_until_told_to_stop(
    settings: Settings, seat: Seat | None = None, *, metrics_port: int | None = None
) -> None:
    """Run a reconciler until SIGTERM or SIGINT; what is under way then has two seconds to finish.

    Its figures go to *seat*, or are told at *metrics_port*.

    Raises:
        NotMigrated, UnfitStore, PartitionsDiffer, SettingsError: What must be put right first.
        LedgerUnavailable, NotSent: A server does not answer as it starts; later ones are waited for.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_reconciler(settings, seat, metrics_port=metrics_port) as reconciler:
        spare_the_collector()
        logger.info("reconciler runs", pid=os.getpid())
        await reconciler.run_for_ever(stop)
    logger.info("reconciler has stopped")


if __name__ == "__main__":
    sys.exit(main())
