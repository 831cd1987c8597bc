"""What ``--keep`` prints: where the server is, tokens for it, and requests to try, which work as they stand."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from holdfast.demo.box_office import BoxOffice, OnSale


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """A server to try, and a place of it that is free, as the body of a request for a hold."""

    url: str
    customer_token: str
    organizer_token: str
    event_id: str
    claim: dict[str, object]


async def find_free_place(events: Sequence[OnSale], office: BoxOffice) -> tuple[str, dict[str, object]]:
    """The event with most places left on one leg, and a claim on one of them."""
    most = -1
    found: tuple[str, dict[str, object]] = ("", {})
    for event in events:
        for leg, availability in enumerate(await office.count_legs(event)):
            for counts in availability.sections:
                if counts.free > most:
                    most, found = counts.free, (event.id, _claim(event, counts.id, leg))
    return found


def print_invitation(console: Console, invitation: Invitation, *, directory: Path) -> None:
    """Print it; the tokens go into files of *directory* too, so that the requests stay short."""
    lines = request_lines(
        invitation,
        customer=_header_file(directory / "customer-token", invitation.customer_token),
        organizer=_header_file(directory / "organizer-token", invitation.organizer_token),
    )
    console.print()
    console.print(f"[bold]Still serving[/] at {invitation.url}\n[bold]Described[/]     at {invitation.url}/docs")
    for what, line in lines:
        console.print(f"\n[dim]# {what}[/]")
        _print_whole(console, line)
    for role, token in (("customer", invitation.customer_token), ("organizer", invitation.organizer_token)):
        console.print(f"\n[bold]Token[/] of the {role}:")
        _print_whole(console, token)
    console.print("\nCtrl-C stops everything.")


def request_lines(invitation: Invitation, *, customer: Path, organizer: Path) -> list[tuple[str, str]]:
    """What each request does, and the request as a line for a shell; the files hold a header with a token each."""
    event = f"{invitation.url}/v1/events/{invitation.event_id}"
    booking = {"event_id": invitation.event_id, **invitation.claim}
    return [
        ("hold a place, for a minute", _curl(customer, f"{event}/holds", invitation.claim)),
        ("or book one at once", _curl(customer, f"{invitation.url}/v1/bookings", booking)),
        ("and see it among the event's bookings, as its organizer", _curl(organizer, f"{event}/bookings?limit=1")),
    ]


def _claim(event: OnSale, section: str, leg: int) -> dict[str, object]:
    ask = "quantity" if event.kind == "places" else "best"
    ends = {"from": event.stops[leg], "to": event.stops[leg + 1]} if event.stops else {}
    return {"items": [{"section": section, ask: 1}], **ends}


def _curl(token: Path, url: str, body: dict[str, object] | None = None) -> str:
    words = ["curl", "-sS", "-w", "\\n", "-H", f"@{token}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body, ensure_ascii=False)]
    return shlex.join([*words, url])


def _header_file(path: Path, token: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(f"Authorization: Bearer {token}\n", encoding="ascii")
    return path


def _print_whole(console: Console, text: str) -> None:
    """Unbroken, whatever the width: it is there to be copied."""
    console.print(Text(text), soft_wrap=True)
