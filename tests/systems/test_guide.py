"""The guide's commands run as they stand, and its picture is the table's."""

from pathlib import Path

import pytest
from processes_under_test import ROOT
from running import Installation

from engine.lifecycle import state_diagram

SYSTEM = "rides"  # any will do: the guide's events are its own
PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.stem)
def test_commands_of_the_page_run_as_they_stand(installation: Installation, page: Path) -> None:
    printed = installation.run_page(page)

    assert printed.endswith("\n")
    assert "}{" not in printed  # every answer stands on a line of its own
    if page.stem == "transactions-and-locking":
        assert printed.split()[-4:] == ["1", "201", "9", "409"]
    if page.stem == "idempotency":
        ids = [line for line in printed.splitlines() if line.endswith("~once")]
        assert (len(ids), len(set(ids))) == (3, 1)
        assert '"free":2' in printed
    if page.stem == "off-sale":
        assert printed.count('"status":"blocked"') == 2
        assert printed.index('"code":"places-unavailable"') < printed.index('"status":"active"')
    if page.stem == "rate-limits":
        assert [line for line in printed.splitlines() if line.startswith('ratelimit: "caller";r=')] != []
    if page.stem == "admission":
        refusals, holds = ('"code":"admission-required"', '"status":"active"')
        assert (printed.count(refusals), printed.count(holds)) == (2, 2)


def test_picture_of_the_state_machine_is_made_from_the_table() -> None:
    page = (ROOT / "docs" / "guide" / "state-machine.md").read_text()
    assert f"```mermaid\n{state_diagram()}\n```" in page


def test_each_page_says_where_its_commands_run() -> None:
    index = (ROOT / "docs" / "guide" / "README.md").read_text()
    assert "\n## The commands\n" in index
    pages = {page.name: page.read_text() for page in PAGES if page.name != "README.md"}
    assert [name for name, text in pages.items() if "(README.md#the-commands)" not in text] == []


def test_guide_lists_all_of_its_pages() -> None:
    index = (ROOT / "docs" / "guide" / "README.md").read_text()
    assert all(f"({page.name})" in index for page in PAGES if page.name != "README.md")
