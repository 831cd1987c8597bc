"""Fixtures of the whole project: real servers, one pair per pytest process, each test starting from a clean state."""

import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_fixture import Cluster, running_cluster
from in_memory import roomy_memory
from servers import LocalServers, local_servers
from stores import CLUSTER, SINGLE

from holdfast.collector import spare_the_collector


def pytest_configure(config: pytest.Config) -> None:
    """Keep in memory what tests and their servers write, where there is room and nobody has said otherwise.

    Hundreds of databases come and go in a run: on a disk that is a fifth of its time, and a disk that stands still for
    two seconds fails a test. What is kept of the fault tests (``--faults=keep``) is measured on the disk.
    """
    measured = config.getoption("--faults", default="short") == "keep"
    if "TMPDIR" not in os.environ and not measured and (memory := roomy_memory()) is not None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, and leave six thousand tests out of its rounds: a seventh of the run.

    From then on nothing more is left out. Commands under test would, and with what they bring what earlier tests have
    left behind, whose warnings are to be seen.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        spare_the_collector()
        gc.enable()
        gc.freeze = lambda: None


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """The running servers; most tests want ``redis_url`` or ``database_url`` instead."""
    base = tmp_path_factory.getbasetemp()
    shared_dir = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with local_servers(tmp_path_factory.mktemp("servers"), shared_dir=shared_dir) as running:
        yield running


@pytest.fixture(scope="session")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries with a replica each, for tests that leave it as they found it."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), node_timeout_ms=5_000) as cluster:
        cluster.add_replicas()
        yield cluster


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """A Valkey that is empty at the beginning of every test; for tests marked ``on_both_stores``, a cluster too."""
    if getattr(request, "param", SINGLE) == CLUSTER:
        cluster: Cluster = request.getfixturevalue("whole_cluster")
        return cluster.url()
    servers: LocalServers = request.getfixturevalue("servers")
    return servers.redis_url


@pytest.fixture(autouse=True)
def clean_redis(request: pytest.FixtureRequest) -> None:
    """Empty Valkey before each test that uses it, and start no server for one that does not."""
    if "redis_url" not in request.fixturenames:
        return
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("redis_url") == CLUSTER:
        request.getfixturevalue("whole_cluster").flush()
    else:
        request.getfixturevalue("servers").flush_redis()


@pytest.fixture(scope="module")
def database_url(servers: LocalServers) -> Iterator[str]:
    """An empty database shared by the tests of one module."""
    with servers.database() as url:
        yield url


@pytest.fixture
def fresh_database(servers: LocalServers) -> Iterator[Callable[..., str]]:
    """A function that makes a database for this test alone: empty, or a copy of ``template`` (a URL or a name)."""
    with contextlib.ExitStack() as databases:
        yield lambda template="template1": databases.enter_context(servers.database(template))


@pytest.fixture
def private_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short temporary directory for sockets, so that processes the test kills leave nothing in the system's."""
    tmp_path_factory.getbasetemp()  # chosen for the whole run when first asked for: let it not be in here
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # servers started by root pass through as another account
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)
