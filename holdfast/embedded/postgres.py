"""The embedded Postgres: one cluster with one database and one superuser, reached by unix socket only."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import asyncpg

from holdfast.children import Stage, describe_exit, start_child
from holdfast.embedded.account import make_directory
from holdfast.embedded.data_dir import Home
from holdfast.embedded.errors import DataDirUnusable, ServerFailed
from holdfast.embedded.programs import POSTGRES_MAJOR, Programs
from holdfast.embedded.server import ServerPlan, clean_environment, open_log, read_tail

NAME = "holdfast"  # of the database and of its owner
PID_FILE = "postmaster.pid"
_SOCKET = ".s.PGSQL.5432"
# SIGINT is the fast shutdown: it ends sessions, rolls their transactions back, writes a checkpoint. (SIGTERM would wait
# for clients to leave.) SIGQUIT ends at once and leaves the rest to crash recovery.
_STAGES = (Stage(signal=signal.SIGINT, grace_s=20.0), Stage(signal=signal.SIGQUIT, grace_s=5.0))
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",  # checkpoints by time rather than by volume during a rush
    "jit": "off",  # every query is short
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
_NOT_YET = (  # refused while it starts, or while clients that come back after a crash hold every connection
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.TooManyConnectionsError,
)
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


def postgres_url(home: Home, database: str = NAME) -> str:
    """Return a URL that ``asyncpg.connect`` takes as it is, and SQLAlchemy once its scheme names the driver."""
    return f"postgresql://{NAME}@/{database}?host={quote(str(home.sockets))}"


def plan_postgres(home: Home, *, programs: Programs, durable: bool) -> ServerPlan:
    """Plan the server; with *durable* false a power failure may lose everything, for tests."""
    settings = _SETTINGS | ({} if durable else _NOT_DURABLE) | {"unix_socket_directories": f'"{home.sockets}"'}

    async def prepare() -> None:
        _check_version(home.postgres)
        _clear_what_was_left(home)
        if not home.postgres.exists():
            await create_cluster(home, programs=programs, durable=durable)

    return ServerPlan(
        name="postgres",
        command=[
            str(programs.postgres),
            *("-D", _path_for_server(home, home.postgres)),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ],
        directory=home.postgres,
        stages=_STAGES,
        lock=home.root / "postgres.lock",
        log=home.logs / "postgres.log",
        account=home.account,
        prepare=prepare,
        is_ready=lambda: _has_database(home),
    )


async def create_cluster(home: Home, *, programs: Programs, durable: bool) -> None:
    """Make the cluster aside and move it into place whole, so that an interrupted ``initdb`` leaves nothing usable.

    Raises:
        ServerFailed: ``initdb`` did not succeed.
    """
    aside = home.root / "postgres.new"
    if aside.exists():
        shutil.rmtree(aside)
    make_directory(aside, home.account)
    # Thousands of small files: one sync of the file system is many times faster than one per file.
    sync = ["--no-sync"] if not durable else ["--sync-method=syncfs"] if sys.platform == "linux" else []
    log = home.logs / "initdb.log"
    log.unlink(missing_ok=True)
    with open_log(log) as output:
        child = await start_child(
            [
                str(programs.initdb),
                *("-D", _path_for_server(home, aside), "-U", NAME, "--auth=trust", "--no-instructions", *sync),
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            env=clean_environment(),
            cwd=aside,
            run_as=None if home.account is None else (home.account.uid, home.account.gid),
            output=output,
        )
        try:
            code = await child.wait()
        finally:
            await child.stop()
    if code != 0:
        raise ServerFailed("postgres", f"initdb: {describe_exit(code)}", log=log, log_tail=read_tail(log, 0))
    aside.rename(home.postgres)


def _path_for_server(home: Home, directory: Path) -> str:
    """Return the path by which the server itself reaches a directory that is its working directory.

    As another account it may not be able to go there from the root; its working directory it can always reach.
    """
    return str(directory) if home.account is None else "/proc/self/cwd"


def _check_version(cluster: Path) -> None:
    version_file = cluster / "PG_VERSION"
    version = version_file.read_text().strip() if version_file.exists() else POSTGRES_MAJOR
    if version != POSTGRES_MAJOR:
        raise DataDirUnusable(
            f"{cluster} was made by Postgres {version}, and this holdfast brings Postgres {POSTGRES_MAJOR}: dump it"
            " with the old version and load it with the new one, or choose another data directory"
        )


def _clear_what_was_left(home: Home) -> None:
    """Remove a killed predecessor's pid and socket files, which Postgres would believe when their pid is in use again.

    No process of ours is left, or we would not hold the server's lock; one started by hand would be, and is respected.
    """
    pid_file = home.postgres / PID_FILE
    if pid_file.exists():
        first = pid_file.read_text().partition("\n")[0]
        pid = int(first) if first.isdigit() else 0
        if pid and _works_in(pid, home.postgres):
            raise DataDirUnusable(f"process {pid}, not started by holdfast, is a Postgres on {home.postgres}: stop it")
        pid_file.unlink()
    for name in (_SOCKET, f"{_SOCKET}.lock"):
        (home.sockets / name).unlink(missing_ok=True)


def _works_in(pid: int, cluster: Path) -> bool:
    """Tell whether *pid* is a postmaster on *cluster*: its working directory is the cluster's."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cwd").samefile(cluster)
        except (FileNotFoundError, PermissionError):
            return False  # gone, or of another account, which could not have written the file
    arguments = subprocess.run(  # noqa: S603 - fixed program, a number
        ["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return os.fspath(cluster) in arguments


async def _has_database(home: Home) -> bool:
    """Make the database when the server is up and lacks it."""
    try:
        connection = await asyncpg.connect(postgres_url(home, "postgres"), timeout=10)
    except _NOT_YET:
        return False
    try:
        if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", NAME):
            await connection.execute(f'CREATE DATABASE "{NAME}"')
        return True
    finally:
        await connection.close()
