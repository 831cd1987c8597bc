"""The data directory: one owner at a time, and a place for everything in it.

lock               held by the owning process; its first line tells who and where
valkey/ postgres/  the servers' data, 0700
run/               their sockets, unless the path is too long for one
logs/              what they print
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast.embedded.account import Account, choose_account, make_directory
from holdfast.embedded.errors import DataDirBusy, DataDirUnusable

SOCKET_PATH_MAX = 103  # bytes; macOS allows 103, Linux 107
_LONGEST_SOCKET_NAME = ".s.PGSQL.5432"


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """An owned data directory with its directories made."""

    root: Path
    valkey: Path
    postgres: Path
    logs: Path
    sockets: Path
    program_copies: Path
    account: Account | None
    lock: int


class Owner(msgspec.Struct, frozen=True):
    """Who holds a data directory, and where its servers listen once they are ready."""

    pid: int
    redis_url: str = ""
    database_url: str = ""


@contextlib.contextmanager
def own_data_dir(data_dir: Path) -> Iterator[Home]:
    """Make the directory if need be, and own it until the end of the block, or of this process.

    Raises:
        DataDirBusy: Another process owns it.
        DataDirUnusable: It cannot be made or written.
    """
    root = data_dir.expanduser().absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirUnusable(f"{root} cannot be used as data directory: {error}") from error
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, lock)
        if not _locked(lock):
            owner = _read_owner(root)
            raise DataDirBusy(root, owner.pid if owner else None)
        announce(lock, Owner(pid=os.getpid()))
        cleanup.callback(os.ftruncate, lock, 0)
        yield _furnish(root, lock, cleanup)


def has_servers(data_dir: Path) -> bool:
    """Whether servers have ever been started in *data_dir*; other files there, such as secrets, say nothing of them.

    One that cannot be looked into counts: who goes on to use it is told what is in the way.
    """
    root = data_dir.expanduser().absolute()
    try:
        found = {entry.name for entry in root.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return not found.isdisjoint(("valkey", "postgres"))


def _locked(lock: int) -> bool:
    """Try a few times: ``find_owner`` of another process holds the lock for an instant."""
    for _ in range(5):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def announce(lock: int, owner: Owner) -> None:
    """Write into the held lock file who owns the directory; a reader takes its first line."""
    line = msgspec.json.encode(owner) + b"\n"
    os.pwrite(lock, line, 0)
    os.ftruncate(lock, len(line))


def find_owner(data_dir: Path) -> Owner | None:
    """Return who owns *data_dir* now, or ``None``: what a killed owner wrote counts for nothing.

    Raises:
        DataDirUnusable: It belongs to another account.
    """
    root = data_dir.expanduser().absolute()
    try:
        lock = os.open(root / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataDirUnusable(f"{root} cannot be looked into: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(root)
    else:
        return None
    finally:
        os.close(lock)


def _read_owner(root: Path) -> Owner | None:
    line, _, _ = (root / "lock").read_bytes().partition(b"\n")
    try:
        return msgspec.json.decode(line, type=Owner)
    except msgspec.DecodeError:
        return None  # it took the lock this instant, and has not written yet


def _furnish(root: Path, lock: int, cleanup: contextlib.ExitStack) -> Home:
    postgres = root / "postgres"
    try:
        account = choose_account(postgres)
        make_directory(root / "valkey", account)
        make_directory(root / "logs", None)
        runtime = _runtime_directory(root, account)
        sockets = runtime / "sockets"
        make_directory(sockets, account)
    except OSError as error:
        raise DataDirUnusable(f"{root} cannot be used as data directory: {error}") from error
    if runtime.parent != root:
        cleanup.callback(shutil.rmtree, runtime)
    # systemd-tmpfiles leaves a locked directory alone, however old it looks
    held = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    cleanup.callback(os.close, held)
    fcntl.flock(held, fcntl.LOCK_SH)
    return Home(
        root=root,
        valkey=root / "valkey",
        postgres=postgres,
        logs=root / "logs",
        sockets=sockets,
        program_copies=runtime / "programs",
        account=account,
        lock=lock,
    )


def _runtime_directory(root: Path, account: Account | None) -> Path:
    """Choose a place for sockets: in the data directory, else (path too long, or closed to the account) a short one."""
    uid = os.geteuid()
    candidates = [root / "run"] if account is None else []
    name = f"holdfast-{uid}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
    candidates += [Path(tempfile.gettempdir()) / name, Path("/tmp") / name]  # noqa: S108 - owner and mode are checked
    for path in candidates:
        # A comma would part two paths in Postgres's settings and in its URLs.
        if "," not in str(path) and len(os.fsencode(path / "sockets" / _LONGEST_SOCKET_NAME)) <= SOCKET_PATH_MAX:
            make_directory(path, None)
            # The account passes through to what is its own; nobody can list or write.
            path.chmod(0o700 if account is None else 0o711)
            return path
    raise DataDirUnusable(f"no path short enough for a socket: {candidates[-1]}")
