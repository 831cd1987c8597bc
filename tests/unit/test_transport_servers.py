"""Which server answers: reports read, changes noticed."""

import pytest
from redis.exceptions import InvalidResponse

from engine.transport.servers import (
    NodeAddress,
    ServerChange,
    ServerIdentity,
    ServerWatch,
    parse_report,
    slot_ranges,
)

NODE = NodeAddress(host="h", port=1)
FIRST = ServerIdentity(run_id="1", replication_id="a")
SECOND = ServerIdentity(run_id="2", replication_id="a")
THIRD = ServerIdentity(run_id="2", replication_id="b")


def watching() -> tuple[ServerWatch, list[ServerChange]]:
    watch = ServerWatch()
    changes: list[ServerChange] = []
    watch.on_change(changes.append)
    return watch, changes


def test_first_server_seen_is_no_change() -> None:
    watch, changes = watching()
    watch.observe(NODE, FIRST)
    watch.observe(NODE, FIRST)
    assert changes == []


@pytest.mark.parametrize(("old", "new"), [(FIRST, SECOND), (SECOND, THIRD)])
def test_server_with_another_run_or_replication_id_is_a_change(old: ServerIdentity, new: ServerIdentity) -> None:
    watch, changes = watching()
    watch.observe(NODE, old)
    watch.observe(NODE, new)
    assert changes == [ServerChange(node=NODE, old=old, new=new, slots=((0, 16383),))]


def test_change_names_only_the_slots_that_changed_hands() -> None:
    watch, changes = watching()
    watch.observe(NODE, FIRST, ((0, 99),))
    watch.observe(NODE, SECOND, ((100, 199),))
    watch.observe(NODE, THIRD, ((50, 60), (90, 120), (500, 600)))
    assert [(change.old, change.new, change.slots) for change in changes] == [
        (FIRST, THIRD, ((50, 60), (90, 99))),
        (SECOND, THIRD, ((100, 120),)),
    ]
    assert [changes[0].covers(slot) for slot in (49, 50, 60, 61, 99, 100)] == [False, True, True, False, True, False]


def test_change_is_reported_again_when_a_callback_failed() -> None:
    watch, changes = watching()
    watch.observe(NODE, FIRST)

    def fail(change: ServerChange) -> None:
        if len(changes) == 1:
            raise RuntimeError("not now")

    watch.on_change(fail)
    with pytest.raises(RuntimeError):
        watch.observe(NODE, SECOND)
    watch.observe(NODE, SECOND)
    assert len(changes) == 2
    watch.observe(NODE, SECOND)
    assert len(changes) == 2


def test_report_is_read_from_info() -> None:
    info = (
        b"# Server\r\nrun_id:abc\r\n# Persistence\r\nloading:0\r\nasync_loading:1\r\n"
        b"# Replication\r\nrole:slave\r\nmaster_replid:def\r\nmaster_replid2:000\r\n"
    )
    report = parse_report(info)
    assert report.identity == ServerIdentity(run_id="abc", replication_id="def")
    assert report.role == "slave"
    assert not report.loading


@pytest.mark.parametrize("info", [b"role:master\r\nloading:0\r\n", None, []])
def test_report_that_lacks_an_id_is_refused(info: object) -> None:
    with pytest.raises(InvalidResponse, match="run_id"):
        parse_report(info)


def test_slots_are_gathered_into_ranges() -> None:
    assert slot_ranges([]) == ()
    assert slot_ranges([5]) == ((5, 5),)
    assert slot_ranges([0, 1, 2, 7, 9, 10]) == ((0, 2), (7, 7), (9, 10))


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (NodeAddress(host="h", port=1), "h:1"),
        (NodeAddress(host="::1", port=1), "[::1]:1"),
        (NodeAddress(host="/run/s", port=0), "/run/s"),
    ],
)
def test_address_reads_as_people_write_it(node: NodeAddress, text: str) -> None:
    assert str(node) == text
