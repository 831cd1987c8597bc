"""``holdfast events``: files in, events out; all of them or none; and what is wrong said with file, line and path."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from warm_commands import WarmCommandLine

from holdfast.cli import main

SAMPLES = Path(str(resources.files("holdfast.samples")))
PLAN = (
    *("--starts-at", "2027-05-01T19:00:00Z", "--currency", "EUR"),
    *("--price", "Premium=9000", "--price", "Standard=6000", "--price", "Economy=3000"),
)
FEED = ("--date", "2023-06-05", "--currency", "USD", "--car", "A1:80x4", "--car", "B:120", "--leg-price", "200")


@pytest.fixture(scope="module")
def cli(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> WarmCommandLine:
    line = WarmCommandLine(
        REDIS_URL=redis_url, DATABASE_URL=database_url, HOLDFAST_DATA_DIR=tmp_path_factory.mktemp("data")
    )
    assert "applied" in line.ok("migrate")
    return line


def definition(event_id: str, **changes: Any) -> dict[str, Any]:
    sections = [{"id": "floor", "price": 4500, "capacity": 500}]
    return {
        "id": event_id,
        "name": "Gig",
        "starts_at": "2027-05-01T19:00:00Z",
        "currency": "EUR",
        "sections": sections,
    } | changes


def write(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def ids(cli: WarmCommandLine) -> set[str]:
    return {event["id"] for event in cli.json("events", "list", "--limit", "1000")}


def test_event_of_a_file_is_created_as_a_draft_and_opened_and_closed_and_shown(
    cli: WarmCommandLine, tmp_path: Path, redis_url: str
) -> None:
    path = write(tmp_path / "gig.json", definition("gig"))
    (created,) = cli.json("events", "create", path, "--organizer", "olga")
    assert (created["id"], created["status"], created["organizer_id"]) == ("gig", "draft", "olga")

    assert cli.ok("events", "open", "gig") == "gig is open\n"
    client = redis.Redis.from_url(redis_url)
    (state,) = client.keys("hf:*:gig:state")
    assert client.hget(state, "status") == b"open"

    assert cli.ok("events", "close", "gig") == "gig is closed\n"
    assert client.hget(state, "status") == b"closed"
    assert cli.json("events", "show", "gig")["status"] == "closed"
    shown = cli.ok("events", "show", "gig")
    assert "2027-05-01 19:00 UTC" in shown
    assert "floor" in shown


def test_seating_plan_becomes_an_event_on_sale(cli: WarmCommandLine) -> None:
    (event,) = cli.json("events", "import", SAMPLES / "grand-theatre.json", "--id", "hamlet", "--open", *PLAN)
    assert (event["id"], event["status"], event["name"]) == ("hamlet", "open", "Grand Theatre")
    assert "1,316" in cli.ok("events", "list", "--status", "open")


def test_timetable_becomes_an_event_for_each_trip_and_date(cli: WarmCommandLine) -> None:
    events = cli.json("events", "import", SAMPLES / "caltrain", "--until", "2023-06-06", "--trip", "701", *FEED)
    assert [event["id"] for event in events] == ["701-2023-06-05", "701-2023-06-06"]
    assert len(events[0]["stops"]) > 2
    assert cli.json("events", "list", "--limit", "1")[0]["id"] == "701-2023-06-05"


def test_event_that_exists_is_named_and_nothing_is_created(cli: WarmCommandLine, tmp_path: Path) -> None:
    cli.ok("events", "create", write(tmp_path / "one.json", definition("taken")))
    many = write(tmp_path / "many.json", [definition("new-1"), definition("taken"), definition("new-2")])
    done = cli.run("events", "create", many)
    assert (done.returncode, done.stdout) == (1, "")
    assert "'taken' already; nothing was made" in done.stderr
    assert not {"new-1", "new-2"} & ids(cli)


def test_plan_with_a_seat_twice_is_refused_with_its_path_and_nothing_is_created(
    cli: WarmCommandLine, tmp_path: Path
) -> None:
    plan = json.loads((SAMPLES / "grand-theatre.json").read_text())
    seats = plan["zones"][0]["rows"][0]["seats"]
    seats[1]["seat_number"] = seats[0]["seat_number"]
    broken = write(tmp_path / "plan.json", plan)
    good = write(tmp_path / "good.json", definition("good-one"))
    done = cli.run("events", "import", good, broken, "--id", "broken-plan", *PLAN)
    assert done.returncode == 1
    assert f"{broken}: $.zones[0].rows[0].seats[1]" in done.stderr
    assert not {"good-one", "broken-plan"} & ids(cli)


def test_broken_timetable_is_refused_with_file_and_line_and_nothing_is_created(
    cli: WarmCommandLine, tmp_path: Path
) -> None:
    feed = tmp_path / "feed"
    shutil.copytree(SAMPLES / "caltrain", feed)
    stop_times = feed / "stop_times.txt"
    lines = stop_times.read_text().splitlines()
    lines[20] = lines[20].replace(":", ";")
    stop_times.write_text("\n".join(lines) + "\n")
    before = ids(cli)
    done = cli.run("events", "import", feed, "--id-prefix", "broken-", *FEED)
    assert done.returncode == 1
    assert f"{stop_times}:21: " in done.stderr
    assert ids(cli) == before


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ('{\n "name": oops}', ":2:10: "),
        (definition("x", sections=[{"id": "a", "price": 1, "rows": [{"id": "A", "seats": ["1", "1"]}]}]),
         ": $.sections[0].rows[0].seats[1]: "),
        (definition("x", colour="red"), ": $.colour: "),
        (definition("x", metadata={"n": 10**40}), ": $.metadata.n: "),
    ],
)  # fmt: skip
def test_wrong_definition_is_refused_with_its_place_in_the_file(
    cli: WarmCommandLine, tmp_path: Path, document: Any, place: str
) -> None:
    path = write(tmp_path / "event.json", document)
    done = cli.run("events", "create", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{path}{place}" in done.stderr


def test_wrong_policy_is_refused_in_the_words_of_the_api(cli: WarmCommandLine, tmp_path: Path) -> None:
    policy = write(tmp_path / "policy.json", '{"orphan_seats": "never"}')
    plan = SAMPLES / "grand-theatre.json"
    done = cli.run("events", "import", plan, "--policy", policy)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{policy}: $.orphan_seats: Invalid enum value 'never': must be one of allow, avoid" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "nowhere.json"), "does not exist"),
        (("import", str(SAMPLES / "caltrain"), "--car", "nonsense"), "a car is written like"),
        (("import", str(SAMPLES / "caltrain"), "--date", "tomorrow"), "is no date like"),
        (("import", str(SAMPLES / "caltrain"), "--starts-at", "2027-05-01T19:00:00"), "no moment with a zone"),
        (("import", str(SAMPLES / "caltrain"), "--price", "=5"), "CATEGORY=AMOUNT"),
        (("list", "--status", "sold-out"), "sold-out"),
        (("create",), "Missing argument"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_option(arguments: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(main, ["events", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_what_can_be_opened_is_opened_and_the_rest_named(cli: WarmCommandLine, tmp_path: Path) -> None:
    cli.ok("events", "create", write(tmp_path / "event.json", definition("willing")))
    done = cli.run("events", "open", "unknown", "willing")
    assert (done.returncode, done.stdout) == (1, "willing is open\n")
    assert done.stderr == "Error: there is no event 'unknown'\n"
    done = cli.run("events", "close", "unknown-too", "willing")
    assert (done.returncode, done.stdout) == (1, "willing is closed\n")


def test_opening_an_event_whose_sale_is_over_warns_of_it(cli: WarmCommandLine, tmp_path: Path) -> None:
    over = definition("over", starts_at="2023-05-01T19:00:00Z", policy={"sales_close_before": 3600})
    done = cli.run("events", "create", write(tmp_path / "over.json", over), "--open")
    warning = "Warning: 'over' takes no holds: its sale ended at 2023-05-01 18:00 UTC\n"
    assert (done.returncode, done.stderr) == (0, warning)
    assert "ended 2023-05-01 18:00 UTC" in done.stdout
    assert "ended 2023-05-01 18:00 UTC" in cli.ok("events", "show", "over")
    assert cli.run("events", "open", "over").stderr == warning


def test_unknown_event_is_named(cli: WarmCommandLine) -> None:
    done = cli.run("events", "show", "nothing")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: there is no event 'nothing'\n")


def test_database_that_is_not_migrated_is_told_so(cli: WarmCommandLine, servers: Any) -> None:
    with servers.database() as url:
        done = cli.run("events", "list", DATABASE_URL=url)
    assert done.returncode == 1
    assert "run `holdfast migrate`" in done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"REDIS_URL": "redis://:secret@localhost:port"}, "REDIS_URL: Redis URL: the port"),
        ({"REDIS_URL": "redis://:secret@127.0.0.1:1"}, "Redis (REDIS_URL) cannot be used: cannot connect"),
        ({"HOLDFAST_PORT": "many"}, "HOLDFAST_PORT: 'many' cannot be used"),
        ({"HOLDFAST_LOG_LEVEL": "loud"}, "HOLDFAST_LOG_LEVEL: 'loud' cannot be used"),
        ({"HOLDFAST_PARTITIONS": "3"}, "was made with 64 partitions"),
    ],
)
def test_setting_that_cannot_be_used_is_one_line_without_its_secret(
    cli: WarmCommandLine, variables: dict[str, str], words: str
) -> None:
    cli.ok("events", "list")  # the first who comes makes the installation, with the partitions that they say
    done = cli.run("events", "list", **variables)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_event_whose_pricing_service_is_not_configured_is_not_opened(cli: WarmCommandLine, tmp_path: Path) -> None:
    cli.ok("events", "create", write(tmp_path / "priced.json", definition("priced", policy={"pricing": "service"})))
    refused = cli.run("events", "open", "priced")
    assert refused.returncode == 1
    assert "HOLDFAST_PRICING_URL" in refused.stderr

    url = "http://127.0.0.1:9/quote"
    assert cli.ok("events", "open", "priced", HOLDFAST_PRICING_URL=url) == "priced is open\n"
