"""What is off sale is worked out of the marks of blocks, and a damaged mark hides no other."""

import pytest
from script_runner import sellable_event
from structlog.testing import capture_logs

from engine.blocks import MARK
from engine.off_sale import NOTHING, off_sale

LAYOUT = sellable_event().layout  # 20 seats, one leg


def marked(**marks: bytes) -> dict[bytes, bytes]:
    return {f"{MARK}{name}".encode(): places for name, places in marks.items()}


def test_marks_come_and_go() -> None:
    first = off_sale(marked(a=b"0:1;1#0,9"), LAYOUT, NOTHING)
    assert first.cells.hex() == "804000"
    both = off_sale(marked(a=b"0:1;1#0,9", b=b"0:1;0*3;1#19"), LAYOUT, first)
    assert both.cells.hex() == "804010"
    assert off_sale(marked(b=b"0:1;0*3;1#19"), LAYOUT, both).cells.hex() == "000010"
    assert off_sale(marked(c=b"0:1;0*3"), LAYOUT, both).cells == b""


@pytest.mark.parametrize(
    "damaged", [b"", b"nonsense", b"0:1", b"0:1;1#", b"0:1;1#20", b"0:1;1#-1", b"0:2;1#3", b"-1:1;1#3", b"\xff"]
)
def test_mark_that_cannot_be_read_is_passed_over_and_told(damaged: bytes) -> None:
    with capture_logs() as told:
        seen = off_sale(marked(a=damaged, b=b"0:1;1#1"), LAYOUT, NOTHING)
    assert seen.cells.hex() == "400000"
    assert [line["event"] for line in told] == ([] if damaged == b"0:1" else ["the mark of a block cannot be read"])
