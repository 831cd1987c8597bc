"""The HTTP collection runs from its first request to its last, each with what earlier ones answered."""

import re
from typing import Any

from processes_under_test import ROOT
from running import Installation

SYSTEM = "rides"  # any will do: the collection makes an event of its own
PAGE = ROOT / "docs" / "holdfast.http"
_ANSWERED = re.compile(r"\{\{(\w+)\.response\.body\.\$\.(\w+)\}\}")


def requests_of(text: str) -> list[tuple[str, str, str, dict[str, str], str]]:
    """Name, method, URL, headers and body of every request of a collection."""
    found = []
    for part in text.split("\n### ")[1:]:
        name = re.search(r"^# @name (\w+)$", part, re.MULTILINE)
        assert name is not None, part
        head, _, body = part[name.end() :].strip().partition("\n\n")
        first, *lines = head.splitlines()
        method, url = first.split(" ", 1)
        found.append((name[1], method, url, dict(line.split(": ", 1) for line in lines), body.strip()))
    return found


async def test_every_request_of_the_collection_does_what_it_says(installation: Installation) -> None:
    answers: dict[str, Any] = {}
    async with installation.people() as people:
        known = {
            "url": installation.url,
            "customer": people.customer("ana").token,
            "organizer": people.organizer("olga").token,
        }

        def filled(text: str) -> str:
            text = _ANSWERED.sub(lambda match: str(answers[match[1]][match[2]]), text)
            return re.sub(r"\{\{(\w+)\}\}", lambda match: str(known[match[1]]), text)

        requests = requests_of(PAGE.read_text())
        for name, method, url, headers, body in requests:
            answer = await people.send(
                method, filled(url), headers={key: filled(value) for key, value in headers.items()}, body=filled(body)
            )
            assert answer.status_code in (200, 201, 204), f"{name}: {answer.status_code} {answer.text}"
            answers[name] = answer.json() if answer.content else None

    assert len(requests) > 15
    assert answers["blocks"]["items"] == [answers["block"]]
    assert answers["completed"]["status"] == "completed"
    assert answers["refunded"]["refunded"] == 1000
    assert [line["to"] for line in answers["history"]["items"]][-1] == "completed"
    assert answers["statistics"]["completed"] == 1
