"""The representation that a client prefers, by its ``Accept`` header."""

import pytest

from api.negotiation import prefers

MAP = "application/vnd.holdfast.seatmap+json"
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (MAP, True),
        (MAP.upper(), True),
        (f"{MAP};q=0.5", True),
        (f"{MAP} ; Q=1.000", True),
        (f"application/json, {MAP}", True),
        (f"application/json;q=0.4, {MAP};q=0.5, */*;q=0.1", True),
        (f"{MAP};profile=x;q=0.2, */*;q=0.1", True),
        (f"{MAP};q=0.2, application/json;q=0, */*", True),
        (f"{MAP};q=0", False),
        (f"{MAP};q=0.000", False),
        (f"{MAP}-x", False),
        (f"x-{MAP}", False),
        (f'text/plain;about="{MAP}"', False),
        (f"{MAP};q=0.5, application/json", False),
        (f"{MAP};q=0.5, */*", False),
        (f"{MAP};q=most", False),
        (f"{MAP};q=2", False),
        ("*/*", False),
        ("application/*", False),
        ("application/json", False),
        ("", False),
        (",;,q=1", False),
    ],
)
def test_bitmaps_are_for_who_asks_for_them_by_name_and_not_for_json_rather(accept: str, expected: bool) -> None:
    assert prefers(accept.encode(), MAP.encode()) is expected


def test_browsers_prefer_pages_and_programs_do_not() -> None:
    asked = (CHROME, "text/html, application/json;q=0.9", "*/*", "application/json, text/html;q=0.1", "text/html-x")
    assert [prefers(accept.encode(), b"text/html") for accept in asked] == [True, True, False, False, False]
