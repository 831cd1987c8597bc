"""The garbage collector of processes that serve: fewer rounds, over less."""

import gc

THRESHOLDS = (20_000, 20, 50)


def spare_the_collector() -> None:
    """Keep what a process has once and for all out of the garbage collector's rounds, and have fewer of them.

    A request leaves no cycles behind, yet the default thresholds had a seventh of a worker's time spent on looking.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
