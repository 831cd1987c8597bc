"""The ``redis-cli`` lines that show by hand what ``holdfast inspect`` shows; no password is ever printed."""

import shlex
from collections.abc import Sequence
from importlib import resources

from engine.keys import event_key
from engine.transport.servers import NodeAddress
from engine.transport.urls import ClusterTarget, parse_url

_INSPECT = resources.files("lua") / "inspect"


def inspection_lines(redis_url: str, node: NodeAddress, *, partition: int, event_id: str, seat: int) -> list[str]:
    """Lines for a shell: the event, its holds, and who has *seat* (by its dense index).

    *node* is the server connected to now, which of several sentinels or cluster nodes it names.
    """
    flags = connection_flags(redis_url, node)

    def line(script: str, keys: Sequence[str], *args: str) -> str:
        names = [event_key(partition, event_id, key).decode() for key in keys]
        words = ["redis-cli", *flags, "--eval", str(_INSPECT / f"{script}.lua"), *names]
        return shlex.join([*words, *([",", *args] if args else [])])

    return [
        line("event", ["state"]),
        line("holds", ["holds", "expiries"]),
        line("seat", ["state", "held", "sold", "holds", "bookings"], str(seat)),
    ]


def connection_flags(redis_url: str, node: NodeAddress) -> list[str]:
    """What tells ``redis-cli`` the way to *node*; it asks for the password where there is one."""
    target = parse_url(redis_url)
    flags = ["-s", node.host] if node.port == 0 else ["-h", node.host, "-p", str(node.port)]
    if isinstance(target, ClusterTarget):
        flags.append("-c")
    if target.options.get("db"):
        flags += ["-n", str(target.options["db"])]
    if target.tls:
        flags.append("--tls")
        for option, flag in (("ssl_ca_certs", "--cacert"), ("ssl_certfile", "--cert"), ("ssl_keyfile", "--key")):
            if option in target.options:
                flags += [flag, str(target.options[option])]
    if target.options.get("username"):
        flags += ["--user", str(target.options["username"])]
    if target.options.get("password"):
        flags.append("--askpass")
    return flags
