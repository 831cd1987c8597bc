"""The programs of embedded servers: found in their wheels, copied where an account could not reach them."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.embedded.account import Account, choose_account
from holdfast.embedded.programs import Programs, find_programs, reachable_programs


def test_programs_are_found_and_executable() -> None:
    programs = find_programs()

    assert all(os.access(path, os.X_OK) for path in (programs.valkey_server, programs.postgres, programs.initdb))


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory any account can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")
def test_programs_are_copied_when_the_account_cannot_reach_them(open_directory: Path) -> None:
    account = choose_account(open_directory / "no-cluster-yet")
    assert account is not None
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    found = find_programs()
    home = found.postgres.parent.parent
    package = closed / "site-packages" / home.parent.name
    shutil.copytree(home, package / home.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(home.parent.parent / f"{home.parent.name}.libs", package.parent / f"{home.parent.name}.libs")
    shutil.copy2(found.valkey_server, closed)
    binaries = package / home.name / "bin"
    out_of_reach = Programs(
        valkey_server=closed / "valkey-server", postgres=binaries / "postgres", initdb=binaries / "initdb"
    )

    copied = reachable_programs(out_of_reach, account, open_directory / "copies")

    assert copied != out_of_reach
    assert reachable_programs(copied, account, open_directory / "again") == copied
    assert closed.stat().st_mode & 0o777 == 0o700
    assert _initdb_as(account, copied, open_directory).returncode == 0


def _initdb_as(account: Account, programs: Programs, parent: Path) -> subprocess.CompletedProcess[bytes]:
    """A cluster made by the copies: whether a program starts says nothing of the files that it reads."""
    data = parent / "data"
    data.mkdir()
    os.chown(data, account.uid, account.gid)
    return subprocess.run(
        [programs.initdb, "--pgdata", data, "--username", "holdfast", "--no-sync"],
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        cwd="/",
        check=False,
    )
