"""What the documents say of keys, scripts, settings, commands and files is what the code has."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

import lua
from api.routes import ROUTES
from engine.definition import EventDefinition, Policy
from engine.events import Event
from engine.keys import EVENT_KEYS, LOAD_KEYS, PARTITION_KEYS
from engine.layout import compile_layout
from engine.loading import state_fields
from holdfast.cli import LazyGroup
from holdfast.exposition import metric_labels
from holdfast.readiness import readiness_checks
from holdfast.settings import load_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if path.name != "CHANGELOG.md"  # of the past it may say what is no longer
)
PLAYABLE = {
    "name": "A run with a counted car and a seated one",
    "starts_at": "2027-05-01T19:00:00Z",
    "currency": "EUR",
    "stops": ["SJC", "PAO", "SFO"],
    "sections": [
        {"id": "standing", "price": 1, "capacity": 10},
        {"id": "car", "price": 1, "rows": [{"id": "1", "seats": "1-4"}]},
    ],
}


def read(path: str | Path) -> str:
    return (ROOT / path).read_text("utf-8")


def section(document: str, heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", read(document), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{document} has no heading {heading!r}"
    return found[1]


def rows(text: str) -> Iterator[list[str]]:
    """The rows of the tables in *text*, without their heads."""
    in_body = False
    for line in text.splitlines():
        if not line.startswith("|"):
            in_body = False
        elif re.fullmatch(r"[|\-: ]+", line):
            in_body = True
        elif in_body:
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def clause(text: str, end: str) -> str:
    """The part of a sentence that goes up to *end*."""
    paragraph = next(paragraph for paragraph in text.split("\n\n") if end in paragraph)
    return re.split(r"[.;:]\s", paragraph[: paragraph.index(end) + len(end)])[-1]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_key_has_its_section_with_a_line_for_redis_cli() -> None:
    headings = set(re.findall(r"^### (\w+)$", read("docs/keys.md"), re.MULTILINE))

    assert headings == {*EVENT_KEYS, *LOAD_KEYS, *PARTITION_KEYS, "once"}
    assert [key for key in headings if "redis-cli" not in section("docs/keys.md", key)] == []


def test_the_table_of_the_state_hash_has_exactly_its_fields() -> None:
    definition = msgspec.convert(PLAYABLE, EventDefinition)
    event = Event("run", "olga", "open", 1, 1, definition, definition.starts_at, definition.starts_at)
    loaded = [name.decode() for name in state_fields(event, compile_layout(definition))[::2]]
    begun = re.findall(r"'(event|epoch|seq|audited)'", lua.load("begin_load").source.decode())
    begun += re.findall(r"keys\.state, '(waiting)'", lua.load("join_line").source.decode())
    begun += re.findall(r"keys\.state, '(back)', string", lua.load("set_clock").source.decode())
    begun += [
        f"{mark}<id>" for mark in re.findall(r"keys\.state, '(blocked:)'", lua.load("book_places").source.decode())
    ]
    begun += [
        f"{word}:<section>:<leg>"
        for word in re.findall(r"keys\.state, '(kept)'", lua.load("unbook_places").source.decode())
    ]
    patterns = (
        (r"section:\d+", "section:<section>"),
        (r"(free|held|sold):\d+:\d+", r"\1:<section>:<leg>"),
    )
    for pattern, general in patterns:
        loaded = [re.sub(f"^{pattern}$", general, name) for name in loaded]

    documented = [words(row[0])[0] for row in rows(section("docs/keys.md", "state"))]

    assert sorted(documented) == sorted({*loaded, *begun})


def test_the_table_of_scripts_says_what_their_headers_say() -> None:
    documented = {
        words(name)[0]: (does, words(keys), frozenset(words(statuses)))
        for name, does, keys, statuses in rows(section("docs/keys.md", "Scripts"))
    }

    declared = {}
    for name in lua.names():
        script = lua.load(name)
        does = re.search(rf"^-- {name}: (.*?)\.?$", read(f"lua/{name}.lua"), re.MULTILINE)
        assert does is not None, name
        keys = [*script.event_keys, *script.shared_keys, *(["once"] if script.once else [])]
        declared[name] = (does[1], keys, script.statuses)
    assert documented == declared


@pytest.mark.parametrize("flag", ["allow-oom", "no-writes"])
def test_the_scripts_with_a_flag_are_named_beside_it(flag: str) -> None:
    flagged = {name for name in lua.names() if flag in lua.load(name).flags}

    told = clause(section("docs/keys.md", "Scripts"), f"`flags={flag}`")

    assert set(words(told)) - {f"flags={flag}"} == flagged


def test_every_inspection_script_is_named() -> None:
    assert [
        file.stem for file in sorted(ROOT.glob("lua/inspect/*.lua")) if f"`{file.stem}`" not in read("docs/keys.md")
    ] == []


def test_the_fields_of_a_journal_entry_are_those_that_the_script_writes() -> None:
    written = re.search(r"'XADD', ev\.keys\.journal, '\*', (.*?)\)\n", read("lua/include/book.lua"), re.DOTALL)
    assert written is not None

    documented = [words(row[0])[0] for row in rows(section("docs/keys.md", "journal"))]

    assert documented == re.findall(r"'(\w+)'", written[1])


@pytest.mark.parametrize(("include", "key"), [("hold", "holds"), ("book", "bookings")])
def test_the_format_of_a_record_is_that_of_its_parser(include: str, key: str) -> None:
    record = re.search(r"^-- `([^`]+\|owner)`; the owner", read(f"lua/include/{include}.lua"), re.MULTILINE)
    assert record is not None

    assert f"`{record[1]}`" in section("docs/keys.md", key)


def test_every_setting_is_in_the_table_and_every_secret_is_called_one() -> None:
    asked: list[str] = []

    class Environment(dict[str, str]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            asked.append(key)
            return "/nowhere" if key == "HOME" else default

    load_settings(Environment())

    text = section("docs/operations.md", "Settings")
    secrets = {name.removesuffix("_FILE") for name in asked if name.endswith("_FILE")}
    assert {words(row[0])[0] for row in rows(text)} == {n for n in asked if not n.endswith("_FILE")} - {"HOME"}
    assert set(words(clause(text, "are secrets"))) == secrets


def test_every_setting_is_said_to_be_of_all_processes_or_of_each() -> None:
    every = [words(row[0])[0] for row in rows(section("docs/operations.md", "Settings"))]
    sorted_out = [
        name for row in rows(section("docs/operations.md", "More than one machine")) for name in words(row[0])
    ]

    assert sorted(sorted_out) == sorted(every)


def test_the_settings_defaults_are_those_of_the_table() -> None:
    settings = load_settings({"HOME": "/home/you"})
    told = {words(row[0])[0]: row[1].strip("`") for row in rows(section("docs/operations.md", "Settings"))}

    assert told["HOLDFAST_HOST"] == settings.host
    assert told["HOLDFAST_PORT"] == str(settings.port)
    assert told["HOLDFAST_JWT_ISSUER"] == settings.jwt_issuer
    assert told["HOLDFAST_JWT_AUDIENCE"] == settings.jwt_audience
    assert float(told["HOLDFAST_CONFIRM_TIMEOUT"]) == settings.confirm_timeout_s
    assert told["HOLDFAST_LOG_LEVEL"] == settings.log_level
    assert told["HOLDFAST_DATA_DIR"].replace("~", "/home/you") == str(settings.data_dir)


def test_the_table_of_metrics_has_exactly_those_that_are_told_with_their_labels() -> None:
    documented = {
        words(name)[0]: tuple(words(labels)) for name, labels, _ in rows(section("docs/operations.md", "Metrics"))
    }

    assert documented == metric_labels()


def test_what_the_table_of_alarms_takes_from_the_log_is_logged() -> None:
    packages = ("engine", "persistence", "api", "holdfast")
    sources = "".join(read(path) for package in packages for path in (ROOT / package).rglob("*.py"))

    signs = [sign for sign, where, _ in rows(section("docs/operations.md", "What to watch")) if where.startswith("log")]
    documented = [text for sign in signs for text in words(sign.partition(" with ")[0])]

    assert len(documented) > 20
    assert [text for text in documented if f'"{text.partition(": ")[0]}' not in sources] == []


def test_the_table_of_checks_says_what_readiness_makes_of_them() -> None:
    nothing: Any = None  # a check touches its parts only when it is run

    documented = {
        words(name)[0]: words(severity)[0]
        for name, _, severity in rows(section("docs/operations.md", "Health"))
        if words(name)
    }

    checks = readiness_checks(nothing, nothing, nothing, nothing)
    assert documented == {name: check.severity for name, check in checks.items()}


def test_the_table_of_the_policy_has_its_members_with_their_defaults_and_ranges() -> None:
    documented = {
        words(name)[0]: (default.strip("`"), span.replace("`", ""))
        for name, default, span, _, _ in rows(section("docs/events.md", "The policy"))
    }

    assert documented == dict(_policy_members(Policy))


def test_the_units_of_the_policy_are_those_of_its_members_names() -> None:
    units = {words(row[0])[0]: row[3] for row in rows(section("docs/events.md", "The policy"))}

    for name, unit in units.items():
        if name.endswith(("_ttl", "_ttl_max", "_before")) and "hours" not in name:
            assert unit == "seconds", name
        elif "percent" in name:
            assert unit == "percent", name
        elif name.startswith("max_places"):
            assert unit == "places", name


def _policy_members(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """Each member's name with its default, as JSON, and the range of its values; those of inner objects after it."""
    described = msgspec.inspect.type_info(struct)
    assert isinstance(described, msgspec.inspect.StructType)
    for field in described.fields:
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        told = "" if default is msgspec.NODEFAULT else msgspec.json.encode(default).decode()
        name = prefix + field.encode_name
        match field.type:
            case msgspec.inspect.IntType(ge=least, le=most):
                yield name, (told, f"{least} to {most}")
            case msgspec.inspect.BoolType():
                yield name, (told, "true, false")
            case msgspec.inspect.LiteralType(values=values):
                yield name, (told, ", ".join(value for value in _as_defined(struct, field.name, values)))
            case msgspec.inspect.ListType(item_type=msgspec.inspect.StructType(cls=inner)):
                yield name, (told, "list of tiers")
                yield from _policy_members(inner, f"{name}[].")
            case msgspec.inspect.UnionType(types=(msgspec.inspect.StructType(cls=inner), msgspec.inspect.NoneType())):
                yield name, (told, "object or null")
                yield from _policy_members(inner, f"{name}.")
            case other:
                raise AssertionError(f"{name} is of a type that the table has no words for: {other}")


def _as_defined(struct: type[msgspec.Struct], name: str, values: tuple[Any, ...]) -> tuple[str, ...]:
    """The words of a literal in the order of the source, which msgspec does not keep."""
    defined = get_args(get_type_hints(struct)[name])
    assert set(defined) == set(values)
    return defined


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(document)):
        path, _, anchor = target.partition("#")
        if path.startswith("https:"):
            continue
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        if anchor:
            assert anchor in map(_anchor, re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)), target


def _anchor(heading: str) -> str:
    """A heading's anchor as the usual renderers make it."""
    kept = (c for c in unicodedata.normalize("NFC", heading.lower()) if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_file_that_is_named_exists(document: Path) -> None:
    folders = ("api", "docs", "engine", "holdfast", "loadtests", "lua", "persistence", "tests")
    named = [name for name in words(read(document)) if re.fullmatch(rf"(?:{'|'.join(folders)})/[\w./*-]+", name)]

    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_command_that_is_shown_exists(document: Path) -> None:
    shown = re.findall(r"(?:^|`|bin/)holdfast ([a-z]+(?:-[a-z]+)*)\b", read(document), re.MULTILINE)

    assert set(shown) <= set(LazyGroup.modules)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_make_target_that_is_shown_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z-]+)\b", read(document), re.MULTILINE)) <= targets


def test_every_call_of_the_walk_through_has_a_route() -> None:
    known = [(route.method, re.sub(r"\{\w+\}", "[^/]+", route.path)) for route in ROUTES]
    calls = re.findall(r"\bcurl (?:-X (\w+) )?\$API(\S+)", read("README.md"))

    assert len(calls) >= 5
    for method, path in calls:
        methods = {m for m, pattern in known if re.fullmatch(pattern, path)}
        assert methods & ({method} if method else {"GET", "POST"}), path


def test_the_decisions_are_numbered_without_gaps_and_have_their_four_parts() -> None:
    files = sorted((ROOT / "docs/decisions").glob("*.md"))

    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for number, file in enumerate(files, start=1):
        text = file.read_text("utf-8")
        assert text.startswith(f"# {number}. "), file.name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Options", "Outcome", "Validated by"], (
            file.name
        )
