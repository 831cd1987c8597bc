"""Explore the model of the protocol, and of the protocol without each of its mechanisms, and say what can go wrong.

``python tests/model/check_protocol.py`` prints a table; exit 0 when every variant turns out as it is written here.
``… --trace NO_EPOCH`` tells the shortest story that ends badly without that mechanism.
Needs Debian's ``spin`` and a C compiler; without them it says so and exits 1.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

MODEL = Path(__file__).with_name("protocol.pml")
INVARIANTS = ("sold_twice", "acknowledged_unwritten", "old_epoch_written", "sold_again", "stores_disagree")
MEMORY_MAX_MB = 2_000
DEPTH_MAX = 200_000  # of a story; the longest is some hundred steps, so that nothing is cut off unnoticed
SEARCH_MAX_S = 120.0
AT_ONCE = 2  # searches; each is one thread and some hundred megabytes


class Variant(msgspec.Struct, frozen=True):
    """The model with some names defined; ``fails`` is the invariant that it must break, and the only one looked at.

    ``holds`` is one that must hold nevertheless; with neither, all of them must.
    """

    name: str
    defines: tuple[str, ...]
    means: str
    fails: str | None = None
    holds: str | None = None


def _without(name: str, fails: str, means: str) -> Variant:
    return Variant(name, (name,), means, fails=fails)


VARIANTS = (
    Variant("protocol", ("BOOKINGS=3",), "everything in place"),
    _without("NO_EPOCH", "stores_disagree", "the commit does not compare epochs"),
    _without("NO_SECOND_GUARD", "sold_twice", "no primary key on claims"),
    _without("ACK_BEFORE_COMMIT", "acknowledged_unwritten", "201 as soon as Redis has accepted"),
    _without("DROP_BEFORE_COMMIT", "stores_disagree", "the journal entry is dropped before the commit"),
    _without("COMMIT_UNLOCKED", "old_epoch_written", "the commit reads the epoch without locking the event's row"),
    _without("EPOCH_AFTER_FILL", "stores_disagree", "the epoch is raised when Redis has been filled"),
    _without("EPOCH_AFTER_SNAPSHOT", "stores_disagree", "the ledger is read, then the epoch is raised"),
    _without("NO_STALE_LOADS", "sold_again", "a loader that lost its turn goes on unhindered"),
    _without("NO_AUDIT", "sold_again", "confirms do not wait for an audit after a change of server"),
    _without("NO_REPAIR", "stores_disagree", "that audit repairs nothing"),
    _without("CALLER_NAMES_SERVER", "sold_again", "the process says which server it talks to, the script does not ask"),
    Variant(
        "NO_EPOCH, NO_SECOND_GUARD, forgetting",
        ("NO_EPOCH", "NO_SECOND_GUARD", "FORGETTING_ONLY"),
        "Redis can only forget, and neither guard is there",
        fails="sold_twice",
    ),
    Variant(
        "NO_SECOND_GUARD, forgetting",
        ("NO_SECOND_GUARD", "FORGETTING_ONLY"),
        "Redis can only forget: the epoch alone is enough",
    ),
    Variant(
        "NO_EPOCH, sales", ("NO_EPOCH",), "whatever is lost: the second guard alone sells once", holds="sold_twice"
    ),
    Variant("NO_AUDIT, sales", ("NO_AUDIT",), "the audit alone guards no sale: it spares refusals", holds="sold_twice"),
)


class Found(msgspec.Struct, frozen=True):
    """What a search found: the invariant that broke, or ``None`` after every state was seen."""

    broken: str | None
    states: int
    memory_mb: float
    seconds: float


def missing_tools() -> list[str]:
    """The programs that are needed and not there."""
    return [names[0] for names in (("spin",), ("cc", "gcc", "clang")) if not any(map(shutil.which, names))]


def explore(variant: Variant) -> Found:
    """Search the whole state space of *variant*, or up to the first broken invariant.

    Raises:
        RuntimeError: The search ended otherwise: it ran out of memory or depth, or found processes stuck.
    """
    with tempfile.TemporaryDirectory(prefix="hf-model-") as name:
        _compile(variant, Path(name))
        began = time.perf_counter()
        output = _search(Path(name))
        return _read(output, time.perf_counter() - began)


def as_expected(variant: Variant, found: Found) -> bool:
    """Whether it broke what it must, or held."""
    return found.broken == variant.fails


def _compile(variant: Variant, directory: Path, *options: str) -> None:
    looked_at = variant.fails or variant.holds
    defines = [*variant.defines, f"CHECK={INVARIANTS.index(looked_at) + 1 if looked_at else 0}"]
    _run(["spin", *(f"-D{define}" for define in defines), "-a", str(MODEL)], directory)
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    optimised = "-O0" if variant.fails else "-O1"  # what ends early takes longer to compile than to search
    flags = ["-w", optimised, "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MAX_MB}", *options]
    _run([compiler, *flags, "-o", "pan", "pan.c"], directory)


def _search(directory: Path) -> str:
    return _run(["./pan", f"-m{DEPTH_MAX}", "-w22"], directory)


def _run(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SEARCH_MAX_S, check=False)
    if done.returncode != 0 and command[0] != "./pan":
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
    return done.stdout


def _read(output: str, seconds: float) -> Found:
    states = re.search(r"(\d+) states, stored", output)
    memory = re.search(r"([\d.]+)\s+total actual memory usage", output)
    broken = re.search(r"assertion violated .*?!\( ?(\w+)", output)
    complete = "errors: 0" in output and not re.search(r"max search depth|out of memory|not completed", output)
    if states is None or memory is None or not (complete or broken):
        raise RuntimeError(output)
    return Found(broken[1] if broken else None, int(states[1]), float(memory[1]), seconds)


def tell(variant: Variant) -> Iterator[str]:
    """The shortest story in which *variant* breaks an invariant: who does what, and what changes by it."""
    with tempfile.TemporaryDirectory(prefix="hf-model-") as name:
        _compile(variant, Path(name), "-DBFS")
        broken = _read(_search(Path(name)), 0.0).broken
        defines = [f"-D{define}" for define in variant.defines]
        trail = [str(path) for path in Path(name).glob("*.trail")]
        story = _run(["spin", *defines, "-k", *trail, "-t", "-p", "-g", str(MODEL)], Path(name))
    known: dict[str, str] = {}
    who = ("init", "customer 0", "customer 1", "reconciler", "fate")
    for line in story.split("\nspin:", 1)[0].splitlines():
        step = re.match(r"\s*\d+:\s+proc\s+(\d).*?\[(.*)\]", line)
        change = re.match(r"\s+([\w.\[\]]+) = (\d+)", line)
        if step and (at := re.search(r"pc==(\w+)", step[2])):
            yield f"{who[int(step[1])]:>10}  {at[1].lower()}"
        elif change and known.get(change[1], "0") != change[2]:
            yield f"{'':>20}{change[1]} = {change[2]}"
        if change:
            known[change[1]] = change[2]
    yield f"broken: {broken}"


def main() -> int:
    """Print the table, or one story."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", metavar="VARIANT", help="tell the shortest story that ends badly without it")
    wanted = parser.parse_args().trace
    if missing := missing_tools():
        print(
            f"The model cannot be checked: {' and '.join(missing)} not found (Debian: apt install spin gcc)",
            file=sys.stderr,
        )
        return 1
    if wanted is not None:
        for line in tell(next(variant for variant in VARIANTS if variant.name == wanted)):
            print(line)
        return 0
    return _print_table()


def _print_table() -> int:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(zip(VARIANTS, pool.map(explore, VARIANTS), strict=True))
    print("| variant | what is different | broken | states | MB | s |\n|---|---|---|---:|---:|---:|")
    for variant, found in results:
        verdict = f"`{found.broken}`" if found.broken else f"not `{variant.holds}`" if variant.holds else "nothing"
        states = f"{found.states:,}".replace(",", " ")
        figures = f"{states} | {found.memory_mb:.0f} | {found.seconds:.1f}"
        print(f"| {variant.name} | {variant.means} | {verdict} | {figures} |")
    unexpected = [variant.name for variant, found in results if not as_expected(variant, found)]
    if unexpected:
        print(f"\nNot as expected: {'; '.join(unexpected)}", file=sys.stderr)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
