"""Secrets kept in the data directory: made once, whoever asks, and readable by nobody else."""

import multiprocessing
import stat
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from holdfast.settings import SettingsError, decode_key, resolve_secret

CALLERS = 6


def test_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    first = resolve_secret(tmp_path / "data", "jwt-secret")

    assert resolve_secret(tmp_path / "data", "jwt-secret") == first
    assert len(decode_key(first)) == 32
    assert resolve_secret(tmp_path / "data", "data-key") != first


def test_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    resolve_secret(tmp_path / "data", "jwt-secret")

    assert stat.S_IMODE((tmp_path / "data" / "jwt-secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["jwt-secret"]


def _resolve_at_the_barrier(barrier: Barrier, data_dir: Path, answer: Connection) -> None:
    barrier.wait(timeout=30)
    answer.send(resolve_secret(data_dir, "jwt-secret"))


def test_secret_is_the_same_for_processes_that_race_to_make_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(10):
        barrier = context.Barrier(CALLERS)
        ours, theirs = context.Pipe(duplex=False)
        callers = [
            context.Process(target=_resolve_at_the_barrier, args=(barrier, tmp_path / str(attempt), theirs))
            for _ in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        answers = {ours.recv() for _ in range(CALLERS)}
        for caller in callers:
            caller.join(timeout=30)

        assert len(answers) == 1


def test_secret_is_refused_when_others_can_read_it(tmp_path: Path) -> None:
    resolve_secret(tmp_path, "jwt-secret")
    (tmp_path / "jwt-secret").chmod(0o644)

    with pytest.raises(SettingsError, match="chmod 600"):
        resolve_secret(tmp_path, "jwt-secret")


def test_secret_is_refused_when_its_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "jwt-secret").touch(mode=0o600)

    with pytest.raises(SettingsError, match="empty"):
        resolve_secret(tmp_path, "jwt-secret")


def test_secret_error_names_the_path_when_the_directory_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="file/data/jwt-secret"):
        resolve_secret(tmp_path / "file" / "data", "jwt-secret")
