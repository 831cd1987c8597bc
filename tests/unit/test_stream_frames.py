"""What listeners are told, put together, is what somebody reads who asks for all seats."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_runner import sellable_event

from api.answers import encode_json
from api.seats import seat_list
from api.stream_frames import StreamChange, StreamEnd, StreamSnapshot, change_frame, snapshot_frame
from engine.availability import Snapshot
from engine.blocks import MARK
from engine.events import SellableEvent
from engine.places import NumberedPlaces, Places, format_places
from engine.snapshots import View

DOCUMENT = (Path(__file__).parents[2] / "docs/live-seat-maps.md").read_text("utf-8")
State = list[list[str]]  # of each seat, of each leg
KINDS = ("free", "free", "held", "sold", "blocked one", "blocked two")
ROWS = (5, 6)


def states(legs: int) -> st.SearchStrategy[State]:
    return st.lists(st.lists(st.sampled_from(KINDS), min_size=legs, max_size=legs), min_size=11, max_size=11)


def hall(legs: int) -> SellableEvent:
    rows = [{"id": f"s{size}", "price": 1, "rows": [{"id": "A", "seats": f"1-{size}"}]} for size in ROWS]
    return sellable_event(*rows, stops=[f"S{number}" for number in range(legs + 1)] if legs > 1 else None)


def seen(event: SellableEvent, seq: int, state: State, before: View | None = None) -> View:
    """A view of the state, as it comes from Redis: a block for each leg and kind, and what it has counts as sold."""
    fields = {}
    for leg in range(event.layout.legs):
        for kind in KINDS[-2:]:
            taken = [seat for seat, cells in enumerate(state) if cells[leg] == kind]
            parts = [[seat for seat in taken if seat < ROWS[0]], [seat for seat in taken if seat >= ROWS[0]]]
            items = tuple(NumberedPlaces(section, tuple(seats)) for section, seats in enumerate(parts) if seats)
            if items:
                fields[f"{MARK}{kind} of {leg}".encode()] = format_places(Places(leg, leg + 1, items)).encode()
        for section, cells in enumerate((state[: ROWS[0]], state[ROWS[0] :])):
            kinds = [one[leg].replace("blocked one", "sold").replace("blocked two", "sold") for one in cells]
            fields |= {
                f"{kind}:{section}:{leg}".encode(): b"%d" % kinds.count(kind) for kind in ("free", "held", "sold")
            }
    held, sold = (_pack(state, kinds) for kinds in (("held",), ("sold", *KINDS[-2:])))
    return View(event, Snapshot(seq, 1, "open", 0, fields, held, sold), b"%d" % seq, lambda *_: None, before=before)


def _pack(state: State, kinds: tuple[str, ...]) -> bytes:
    bits = "".join("1" if cell in kinds else "0" for cells in state for cell in cells)
    return bytes(int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8))


def statuses(view: View, legs: tuple[int, int]) -> dict[tuple[str, str], str]:
    return {(seat.section, seat.seat): seat.status for seat in seat_list(view, *legs, party=None).seats}


def data_of(frame: bytes) -> Any:
    return json.loads(frame.split(b"data: ")[1])


@given(data=st.data(), legs=st.sampled_from([1, 3]))
def test_snapshot_and_changes_come_to_what_the_seat_map_says(data: st.DataObject, legs: int) -> None:
    event = hall(legs)
    first = data.draw(st.integers(0, legs - 1))
    of_legs = (first, data.draw(st.integers(first + 1, legs)))
    view = seen(event, 1, data.draw(states(legs)))
    bits = data_of(snapshot_frame(view, of_legs))["seats"]
    held, sold, blocked = (base64.b64decode(bits[name]) for name in ("held", "sold", "blocked"))

    def is_set(bitmap: bytes, number: int) -> bool:
        return bool(bitmap) and bool(bitmap[number >> 3] & 0x80 >> (number & 7))

    told = {}
    for number, seat in enumerate(statuses(view, of_legs)):
        kinds = [("blocked", blocked), ("sold", sold), ("held", held)]
        told[seat] = next((kind for kind, bitmap in kinds if is_set(bitmap, number)), "free")
        assert not is_set(blocked, number) or is_set(sold, number)
    assert told == statuses(view, of_legs)

    for seq in (2, 3, 4):
        old, view = view, seen(event, seq, data.draw(states(legs)), before=view)
        changes = data_of(change_frame(old, view, of_legs))["seats"]
        if legs == 1:  # with more, what is held of a seat may change while another leg of it is sold
            assert all(told[one["section"], one["seat"]] != one["status"] for one in changes)
        told |= {(one["section"], one["seat"]): one["status"] for one in changes}
        assert told == statuses(view, of_legs)


def test_nothing_is_said_of_blocks_where_there_are_none() -> None:
    view = seen(hall(1), 1, [["sold"]] * 11)
    assert data_of(snapshot_frame(view, (0, 1)))["seats"]["blocked"] == ""


def test_states_with_the_same_blocks_share_one_bitmap_of_them() -> None:
    event, state = hall(1), [["free"]] * 10 + [["blocked one"]]
    before = seen(event, 1, state)
    assert before.off_sale.cells == b"\x00\x20"
    after = seen(event, 2, [["sold"], *state[1:]], before=before)
    assert after.off_sale.cells is before.off_sale.cells
    assert after.off_sale.marks is not before.off_sale.marks  # or else one state would keep another's fields in memory


def messages(text: str) -> list[tuple[str, str, str | None]]:
    """Kind, data and id of each message."""
    lines = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [(one["event"], one["data"], one.get("id")) for one in lines if "event" in one]


@pytest.fixture(scope="module")
def seat_map() -> type[Any]:
    """The client that the document shows."""
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/live-seat-maps.md", "exec"), names)
    client: type[Any] = names["SeatMap"]
    return client


def test_messages_that_the_document_shows_have_the_members_that_are_sent() -> None:
    (text,) = re.findall(r"^```text\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    sent = {"snapshot": StreamSnapshot, "change": StreamChange, "end": StreamEnd}

    shown = messages(text)

    assert [kind for kind, _, _ in shown] == ["snapshot", "change", "change", "end"]
    for kind, data, _ in shown:
        assert encode_json(msgspec.json.decode(data, type=sent[kind])).decode() == data


def test_client_of_the_document_reads_the_messages_that_it_shows(seat_map: type[Any]) -> None:
    (text,) = re.findall(r"^```text\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    client = seat_map([{"section": "stalls", "seat": f"A-{number}"} for number in range(1, 5)])

    for message in messages(text):
        client.apply(*message)

    assert client.seats == {("stalls", f"A-{number}"): "sold" if number == 2 else "free" for number in range(1, 5)}
    assert client.sections["floor"]["sold"] == 2
    assert (client.last_id, client.ended) == ("1.5.1d07c20d", "closed")


@given(old=states(1), new=states(1))
def test_client_of_the_document_sees_what_is_at_seats(seat_map: type[Any], old: State, new: State) -> None:
    event = hall(1)
    before = seen(event, 1, old)
    after = seen(event, 2, new, before)
    client = seat_map(msgspec.to_builtins(seat_list(before, 0, 1, party=None).seats))

    for frame in (snapshot_frame(before, (0, 1)), change_frame(before, after, (0, 1))):
        client.apply(*messages(frame.decode())[0])

    assert client.seats == statuses(after, (0, 1))
