"""The table in docs/faults.md is what the last run of `make faults` measured."""

import pytest
from figures import BEGIN, DOCUMENT, END, results_text


@pytest.mark.short
def test_the_document_tells_what_was_measured() -> None:
    told = DOCUMENT.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]

    assert told.strip() == results_text()
