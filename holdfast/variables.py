"""Environment variables that look like ours: what they are called, and which of them somebody may have mistyped."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from holdfast.settings import setting_variables

PREFIX = "HOLDFAST_"
LIKENESS_MIN = 0.6  # of a mistyped name and what was meant, without the prefix: HST is like HOST, COLOUR like nothing

# No settings, and ours all the same.
OTHER_VARIABLES = frozenset(
    {
        "HOLDFAST_FIGURES",  # these are how `serve` tells its processes what they have to know
        "HOLDFAST_LISTENER",
        "HOLDFAST_SETTINGS",
        "HOLDFAST_SIMULATOR_LISTENER",
        "HOLDFAST_SIMULATOR_WEBHOOK_URL",
        "HOLDFAST_WORKER",
        "HOLDFAST_PROFILE",  # the load tests' name for a file
        "HOLDFAST_URL",  # where the examples and the guide find the API
        "HOLDFAST_WEBHOOK_SECRET",  # in place of --secret of `holdfast webhooks`
    }
)

# What Kubernetes tells every container of a service that is called ``holdfast``, or ``holdfast-`` and something.
_OF_KUBERNETES = re.compile(r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)")


def unknown_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Each variable with our prefix that nothing of ours reads, and the name that is most like it, if one is."""
    settings = {name.removeprefix(PREFIX): name for name in setting_variables()}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in settings.values() or name in OTHER_VARIABLES:
            continue
        if _OF_KUBERNETES.fullmatch(name.removeprefix(PREFIX)) is None:
            like = get_close_matches(name.removeprefix(PREFIX), settings, n=1, cutoff=LIKENESS_MIN)
            yield name, settings[like[0]] if like else None
