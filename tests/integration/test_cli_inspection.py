"""``holdfast inspect``, ``audit`` and ``doctor``: what they show, in tables and as JSON, and what they exit with."""

import datetime as dt
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from warm_commands import WarmCommandLine

from engine.blocks import BLOCKED_OWNER, block_details
from engine.bookings import BookingDetails
from engine.claim_requests import ClaimRequest
from engine.claims import ItemRequest
from engine.definition import EventDefinition, RowDefinition, SectionDefinition
from engine.transport.servers import NodeAddress
from holdfast.compose import open_parts
from holdfast.redis_cli import connection_flags
from holdfast.settings import load_settings

PARTITION = 8  # of the event "concert-42", among 64


@pytest.fixture(scope="module")
def cli(servers: Any, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> WarmCommandLine:
    line = WarmCommandLine(
        REDIS_URL=servers.redis_url, DATABASE_URL=database_url, HOLDFAST_DATA_DIR=tmp_path_factory.mktemp("data")
    )
    line.ok("migrate")
    return line


@pytest.fixture(scope="module")
def client(servers: Any) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(servers.redis_url) as opened:
        yield opened


@pytest.fixture
async def sold(cli: WarmCommandLine, client: redis.Redis) -> AsyncIterator[dict[str, str]]:
    """A train with a hold of Ana's on A-1 over two legs, and a booking of Ben's of A-1 on the third."""
    client.flushall()
    async with open_parts(load_settings(cli.environment)) as parts:
        if not (await parts.events.list_events(limit=1, all_drafts=True)).items:
            await parts.events.create(_train(), organizer_id="olga")
        await parts.reservations.publish(await parts.events.transition("concert-42", "open"))
        first = ClaimRequest(
            [ItemRequest("stalls", seats=["A-1"]), ItemRequest("floor", quantity=2)], "SJC", "MTV", ttl=600
        )
        held = await parts.reservations.hold("concert-42", first, customer_id="ana")
        third = ClaimRequest([ItemRequest("stalls", seats=["A-1"])], "MTV", "SFO")
        booked = await parts.reservations.book("concert-42", third, BookingDetails(), customer_id="ben")
        yield {"hold": held.hold.id, "booking": booked.booking.id}
        await parts.settlement.close()
        async with parts.database.begin() as connection:
            for table in ("bookings", "claims"):
                await connection.exec_driver_sql(f"DELETE FROM {table}")


def _train() -> EventDefinition:
    rows = [RowDefinition("A", "1-4")]
    sections = [
        SectionDefinition("floor", capacity=20, price=100),
        SectionDefinition("stalls", rows=rows, price=900),
        SectionDefinition("circle", rows=[RowDefinition("A", "2-9"), RowDefinition("Z", "1-1")], price=900),
    ]
    stops = ["SJC", "PAO", "MTV", "SFO"]
    starts_at = dt.datetime(2035, 5, 1, tzinfo=dt.UTC)
    return EventDefinition("Train", starts_at, "USD", sections, id="concert-42", stops=stops)


def test_inspect_shows_holds_bookings_counters_and_keys(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    shown = cli.json("inspect", "concert-42")
    assert (shown["status"], shown["loaded"], shown["partition"]) == ("open", True, PARTITION)
    floor = shown["sections"][0]
    assert (floor["section"], floor["free"], floor["held"]) == ("floor", [18, 18, 20], [2, 2, 0])
    (hold,) = shown["holds"]
    assert (hold["id"], hold["customer_id"], hold["places"]) == (
        sold["hold"],
        "ana",
        "stalls A-1, floor × 2, SJC → MTV",
    )
    assert 500 < hold["seconds_left"] <= 600
    (booking,) = shown["latest_bookings"]
    assert (booking["id"], booking["customer_id"]) == (sold["booking"], "ben")
    sizes = {key["key"]: (key["type"], key["size"]) for key in shown["keys"]}
    assert sizes[f"hf:{{{PARTITION}}}:concert-42:holds"] == ("hash", 1)
    assert sizes[f"hf:{{{PARTITION}}}:concert-42:sold"] == ("string", 5)  # 13 seats on 3 legs


def test_inspect_tells_who_has_a_seat_on_each_leg(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    seats = cli.json("inspect", "concert-42", "--seat", "A-1")["seats"]
    assert [(seat["leg"], seat["status"], seat["customer_id"], seat["owner"]) for seat in seats] == [
        (0, "held", "ana", f"hold {sold['hold']}"),
        (1, "held", "ana", f"hold {sold['hold']}"),
        (2, "sold", "ben", f"booking {sold['booking']}"),
    ]


def test_inspect_tells_seats_of_one_label_apart_by_section(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    both = cli.json("inspect", "concert-42", "--seat", "A-2")["seats"]
    assert {seat["section"] for seat in both} == {"stalls", "circle"}
    one = cli.json("inspect", "concert-42", "--seat", "A-2", "--section", "circle")
    assert {seat["section"] for seat in one["seats"]} == {"circle"}
    assert [section["section"] for section in one["sections"]] == ["circle"]


def test_inspect_tells_who_had_a_seat_at_a_moment_of_the_past(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    at = dt.datetime.now(dt.timezone(dt.timedelta(hours=2))).isoformat()
    (then,) = cli.json("inspect", "concert-42", "--seat", "A-1", "--at", at)["seats"]
    assert (then["section"], then["seat"], then["notes"]) == ("stalls", "A-1", [])
    assert [(c["leg"], c["status"], c["customer_id"], c["id"], c["ended"]) for c in then["claims"]] == [
        (0, "held", "ana", sold["hold"], None),
        (1, "held", "ana", sold["hold"], None),
        (2, "owned", "ben", sold["booking"], None),
    ]
    printed = cli.ok("inspect", "concert-42", "--seat", "A-1", "--at", at)
    for words in ("concert-42 at 20", "SJC → PAO", "held", "owned", "ben", sold["booking"]):
        assert words in printed
    both = cli.json("inspect", "concert-42", "--seat", "A-2", "--at", at)["seats"]
    assert [seat["section"] for seat in both] == ["stalls", "circle"]  # each that is called A-2
    assert [claim["status"] for claim in both[0]["claims"]] == ["free"] * 3


async def test_inspect_says_of_a_moment_before_the_event_that_there_was_none(
    cli: WarmCommandLine, sold: dict[str, str]
) -> None:
    question = ("inspect", "concert-42", "--seat", "A-1", "--at")
    printed = cli.ok(*question, "2026-01-01T20:00:07Z")
    assert "the event did not exist yet: it was made at 20" in printed
    assert "free" not in printed
    (seat,) = cli.json(*question, "2026-01-01T20:00:07Z")["seats"]
    assert ([claim["status"] for claim in seat["claims"]], len(seat["notes"])) == (["free"] * 3, 1)
    assert "did not exist yet" in seat["notes"][0]

    async with open_parts(load_settings(cli.environment)) as parts, parts.database.begin() as connection:
        await connection.exec_driver_sql("UPDATE events SET created_at = '2026-01-01T20:00:07Z'")
    (seat,) = cli.json(*question, "2026-01-01T20:00:07Z")["seats"]
    assert ["kept for 30 days" in note for note in seat["notes"]] == [True]
    assert "free" in cli.ok(*question, "2026-01-01T20:00:07Z")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--at", "2026-11-25T20:00:07Z"), 2, "--at needs --seat"),
        (("--seat", "A-1", "--at", "2026-11-25T20:00:07"), 2, "no moment with a zone, like 2027-05-01T19:00:00Z"),
        (("--seat", "A-1", "--at", "2099-01-01T00:00:00Z"), 1, "Error: --at lies in the future: Redis's clock says 20"),
    ],
)
def test_moment_that_cannot_be_asked_about_is_an_error_in_one_line(
    cli: WarmCommandLine, sold: dict[str, str], arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = cli.run("inspect", "concert-42", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_prints_tables_for_people(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    printed = cli.ok("inspect", "concert-42", "--seat", "A-1")
    for words in ("concert-42 is open; partition 8", "MTV → SFO", sold["hold"], "1 live hold", "The same by hand:"):
        assert words in printed
    assert re.search(r":holds +hash +1 field\n", printed)


async def test_inspect_says_of_a_block_that_its_places_are_off_sale(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    async with open_parts(load_settings(cli.environment)) as parts:
        details = block_details(actor="olga", role="organizer", request_id=None, reason=None, release_at=None)
        claim = ClaimRequest([ItemRequest("stalls", seats=["A-4"])])
        booked = await parts.reservations.book("concert-42", claim, details, customer_id=BLOCKED_OWNER)
        await parts.settlement.close()
    block = booked.booking.id
    now = ("inspect", "concert-42", "--seat", "A-4", "--section", "stalls")
    then = (*now, "--at", dt.datetime.now(dt.UTC).isoformat())

    for printed, lines in ((cli.ok(*now), 4), (cli.ok(*then), 3)):  # three legs; and now the booking's own line
        assert printed.count("off sale (block)") == lines
        assert block in printed
        assert "blocked" not in printed
    shown, (seat,) = cli.json(*now), cli.json(*then)["seats"]
    by_id = {booking["id"]: (booking["customer_id"], booking["is_block"]) for booking in shown["latest_bookings"]}
    assert by_id == {block: (BLOCKED_OWNER, True), sold["booking"]: ("ben", False)}
    for on_legs in (shown["seats"], seat["claims"]):
        assert [(on_leg["customer_id"], on_leg["is_block"]) for on_leg in on_legs] == [(BLOCKED_OWNER, True)] * 3
    (free, *_) = cli.json("inspect", "concert-42", "--seat", "A-3")["seats"]
    assert (free["customer_id"], free["is_block"]) == (None, False)


def test_redis_cli_lines_show_the_same(cli: WarmCommandLine, sold: dict[str, str], client: redis.Redis) -> None:
    lines = cli.json("inspect", "concert-42", "--seat", "A-1")["redis_cli"]
    replies = [_run_by_hand(line, client) for line in lines]
    event, holds, seat = replies
    assert "status = open" in event
    assert holds[0].startswith(sold["hold"].partition("~")[0])
    assert seat[:3] == ["leg 0: held", "leg 1: held", "leg 2: sold"]
    assert len(seat) == 5  # and the two owners


def _run_by_hand(line: str, client: redis.Redis) -> list[str]:
    """What redis-cli does with such a line; it need not be installed where tests run."""
    words = shlex.split(line)
    connection = client.connection_pool.connection_kwargs
    assert words[:3] == ["redis-cli", "-s", connection["path"]]
    assert words[3] == "--eval"
    keys = words[5 : words.index(",")] if "," in words else words[5:]
    args = words[words.index(",") + 1 :] if "," in words else []
    reply: Any = client.eval(Path(words[4]).read_text(), len(keys), *keys, *args)
    return [text.decode() for text in reply]


@pytest.mark.parametrize(
    ("url", "flags"),
    [
        ("redis://cache.example:7000/3", "-h cache.example -p 7000 -n 3"),
        ("rediss://app:secret@cache.example/0?ssl_ca_certs=/ca.pem",
         "-h cache.example -p 6379 --tls --cacert /ca.pem --user app --askpass"),
        ("redis+cluster://:secret@a.example,b.example", "-h a.example -p 6379 -c --askpass"),
        ("unix:///run/redis.sock?db=2", "-s /run/redis.sock -n 2"),
    ],
)  # fmt: skip
def test_redis_cli_is_told_the_way_and_no_password(url: str, flags: str) -> None:
    is_socket = url.startswith("unix")
    host = "/run/redis.sock" if is_socket else url.partition("//")[2].rpartition("@")[2].split(":")[0]
    node = NodeAddress(host.split(",")[0].split("/")[0] if not is_socket else host, 0 if is_socket else 6379)
    node = NodeAddress(node.host, 7000) if ":7000" in url else node
    assert " ".join(connection_flags(url, node)) == flags


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seat", "Q-1"), "there is no seat 'Q-1'"),
        (("--section", "pit"), "no section 'pit': floor, stalls, circle"),
        (("--seat", "Z-1", "--section", "stalls"), "no seat 'Z-1' in section 'stalls'"),
    ],
)
def test_inspect_of_what_the_event_does_not_have_is_a_usage_error(
    cli: WarmCommandLine, sold: dict[str, str], arguments: tuple[str, ...], words: str
) -> None:
    done = cli.run("inspect", "concert-42", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_inspect_of_an_event_that_redis_has_not_says_so(
    cli: WarmCommandLine, sold: dict[str, str], client: redis.Redis
) -> None:
    client.flushall()
    assert "not in Redis" in cli.ok("inspect", "concert-42")
    assert cli.json("inspect", "concert-42")["loaded"] is False
    done = cli.run("inspect", "concert-42", "--seat", "A-1")
    assert (done.returncode, "by hand" in done.stdout) == (0, False)
    assert done.stderr.startswith("Warning: of the seat nothing is told: the event is not in Redis")
    assert client.dbsize() == 0


def test_inspect_names_holds_that_have_lapsed_and_are_not_yet_ended(
    cli: WarmCommandLine, sold: dict[str, str], client: redis.Redis
) -> None:
    client.zadd(f"hf:{{{PARTITION}}}:concert-42:expiries", {sold["hold"].partition("~")[0]: 1_000})
    printed = cli.ok("inspect", "concert-42")
    assert "0 live holds; 1 lapsed, not yet ended" in printed
    assert "lapsed\n" in printed
    assert "1 booking" in printed
    assert "1 bookings" not in printed
    assert "Its sale end" in printed
    assert cli.json("inspect", "concert-42")["lapsed_count"] == 1


async def test_inspect_says_of_a_draft_that_it_is_one(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    async with open_parts(load_settings(cli.environment)) as parts:
        await parts.events.create(msgspec.structs.replace(_train(), id="not-yet"), organizer_id="olga")
    done = cli.run("inspect", "not-yet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: 'not-yet' is a draft: ")


def test_audit_exits_with_0_when_all_agree(cli: WarmCommandLine, sold: dict[str, str]) -> None:
    assert cli.json("audit")["drift"] == 0
    assert "1 event: Redis and ledger agree. 0 bookings waiting in the journal." in cli.ok("audit", "concert-42")


def test_audit_exits_with_2_and_names_what_differs(
    cli: WarmCommandLine, sold: dict[str, str], client: redis.Redis
) -> None:
    client.setbit(f"hf:{{{PARTITION}}}:concert-42:sold", 3 * 3 + 1, 1)
    done = cli.run("audit")
    assert (done.returncode, done.stderr) == (2, "")
    assert "cell_not_owned 1" in done.stdout
    assert "A-4" in done.stdout
    done = cli.run("audit", "--json")
    assert done.returncode == 2
    assert '"kind": "cell_not_owned"' in done.stdout


def test_audit_of_an_unknown_event_is_an_error(cli: WarmCommandLine) -> None:
    done = cli.run("audit", "nothing")
    assert (done.returncode, done.stderr) == (1, "Error: there is no event 'nothing'\n")


def test_doctor_finds_nothing_wrong_with_fit_servers(cli: WarmCommandLine) -> None:
    diagnosis = cli.run("doctor", "--json")
    printed = cli.run("doctor").stdout
    for subject in ("version of Python", "eviction", "persistence", "memory", "clock", "scripts", "rights", "token"):
        assert subject in diagnosis.stdout
        assert subject in printed
    for subject in ("version of Postgres", "connections of Postgres", "migrations", "partitions", "open files"):
        assert subject in printed
    # The servers of the tests keep nothing on disk, and doctor sees that.
    assert diagnosis.returncode == 1
    failures = [line for line in printed.splitlines() if line.startswith("failure")]
    assert len(failures) == 1
    assert "durability of Postgres" in failures[0]
    assert "append-only file is off" in printed


def test_doctor_tells_of_dead_letters(cli: WarmCommandLine, sold: dict[str, str], client: redis.Redis) -> None:
    assert "that cannot be written" not in cli.run("doctor").stdout
    client.hset(f"hf:{{{PARTITION}}}:dead", "1-1", "{}")
    assert "1 journal entry that cannot be written" in cli.run("doctor").stdout


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HOLDFAST_JWT_SECRET": "short"}, "5 bytes"),
        ({"HOLDFAST_PARTITIONS": "7"}, "HOLDFAST_PARTITIONS asks for 7"),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "cannot connect"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "set DATABASE_URL right"),
    ],
)
def test_doctor_names_what_will_not_do_and_looks_at_the_rest(
    cli: WarmCommandLine, sold: dict[str, str], variables: dict[str, str], words: str
) -> None:
    done = cli.run("doctor", **variables)
    assert done.returncode == 1
    assert all(line.startswith("Warning: HOLDFAST_JWT_SECRET has") for line in done.stderr.splitlines())
    assert words in done.stdout
    assert "→" in done.stdout
    assert "open files" in done.stdout


def test_doctor_sees_a_server_that_evicts_and_files_that_others_can_write(
    cli: WarmCommandLine, client: redis.Redis, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        done = cli.run("doctor", HOLDFAST_DATA_DIR=str(tmp_path))
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert done.returncode == 1
    assert "maxmemory-policy is allkeys-lru" in done.stdout
    assert "can be written by others (mode 0777)" in done.stdout
