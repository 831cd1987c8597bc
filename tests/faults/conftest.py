"""The fault suite: which of it runs, the installation each test breaks, and the table of what was measured.

``pytest tests/faults --faults=all`` runs all of it, and ``--faults=keep``, which is ``make faults``, also keeps the
figures. Otherwise only the tests marked ``short`` are collected, so that a plain run stays quick and reports nothing as
skipped.
"""

import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from checker import Figures
from figures import Row, keep, make_row, table
from rig import Rig, open_rig

FAULTS = Path(__file__).parent
ROWS: list[Row] = []
_began_s = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("short", "all", "keep"),
        default="short",
        help="how much of the fault suite to run, and whether to rewrite docs/faults.md with the figures",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "short: a fault test that also runs outside of `make faults`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the short selection, unless all of it is asked for. Absent, the option was not registered: a plain run."""
    if config.getoption("--faults", default="short") != "short":
        return
    items[:] = [item for item in items if FAULTS not in item.path.parents or item.get_closest_marker("short")]


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory common to all pytest processes of a run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory of the module's own, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # servers started by root pass through as another account
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(directory: Path, shared_dir: Path) -> AsyncIterator[Rig]:
    """Servers behind proxies, and one ``holdfast serve`` with two API processes; for all tests of a module in turn."""
    async with open_rig(directory, shared_dir=shared_dir) as opened:
        yield opened


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep and print a fault's figures, and fail when the checker found anything."""

    def add(number: int, name: str, figures: Figures, besides: str = "") -> None:
        row = make_row(number, name, figures, besides)
        ROWS.append(row)
        print(f"\n{table([row])}")
        assert figures.findings == [], "\n".join(figures.findings)
        assert (figures.lost, figures.duplicates) == (0, 0)
        assert figures.recovery_s != float("inf"), "nothing succeeded after the fault"

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Print the table; of a whole and successful run, keep it."""
    if not ROWS:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(table(ROWS))
    if config.getoption("--faults", default="short") == "keep" and exitstatus == 0:
        machine = (
            f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
        )
        keep(ROWS, machine, time.monotonic() - _began_s)
