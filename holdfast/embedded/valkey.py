"""The embedded Valkey: every write in the append-only file, nothing ever evicted, one unix socket."""

import asyncio
import signal
from pathlib import Path
from urllib.parse import quote

from holdfast.children import Stage
from holdfast.embedded.data_dir import Home
from holdfast.embedded.server import ServerPlan

_STAGES = (Stage(signal=signal.SIGTERM, grace_s=15.0),)  # writes and syncs the append-only file, then ends
_SOCKET = "valkey.sock"
PID_FILE = "valkey.pid"


def valkey_url(home: Home) -> str:
    return f"unix://{quote(str(home.sockets / _SOCKET))}"


def plan_valkey(home: Home, *, program: Path, durable: bool) -> ServerPlan:
    """Plan the server; with *durable* false it keeps nothing, for tests."""
    socket = home.sockets / _SOCKET
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "appendonly": "yes" if durable else "no",
        "appendfsync": "everysec",  # enough: what is acknowledged as booked is in Postgres
        # The least size at which the file is written anew, by a process of its own that takes a core and makes the
        # server copy its memory: at 64 MB, the default, after 100,000 holds, some seconds of a busy sale.
        "auto-aof-rewrite-min-size": "256mb",
        "save": "",
        "maxmemory-policy": "noeviction",  # an evicted hold could not give its places back
        "pidfile": PID_FILE,
        "daemonize": "no",
        "always-show-logo": "no",
    }

    async def nothing_to_prepare() -> None:
        """Valkey replaces a stale socket and pid file by itself, and repairs a cut-off end of its file."""

    return ServerPlan(
        name="valkey",
        command=[str(program), *(word for name, value in settings.items() for word in (f"--{name}", value))],
        directory=home.valkey,  # all of its files are relative to it
        stages=_STAGES,
        lock=home.root / "valkey.lock",
        log=home.logs / "valkey.log",
        account=home.account,
        prepare=nothing_to_prepare,
        is_ready=lambda: _answers(socket),
    )


async def _answers(socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"  # while it loads its file: -LOADING
    except ConnectionError:
        return False
    finally:
        writer.close()
