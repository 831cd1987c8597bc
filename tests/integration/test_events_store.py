"""Events are made, changed while drafts, opened once and listed to those who may see them."""

import asyncio
import datetime as dt
import threading

import msgspec
import pytest
from ledger_lab import STARTS_AT, Lab

import persistence.events
from engine.definition import EventDefinition, EventPatch, Policy, RowDefinition, SectionDefinition, SlotsDefinition
from engine.errors import (
    EventExists,
    EventNotDraft,
    EventNotFound,
    InvalidRequest,
    InvalidTransition,
    VersionConflict,
)
from engine.events import EVENT_STATUSES, EVENT_TRANSITIONS, Event
from engine.layout import Layout, compile_layout

pytest_plugins = ("ledger_fixtures",)

PLAY = EventDefinition(
    id="play",
    name="A Play — «Os Maias»",
    starts_at=STARTS_AT,
    currency="EUR",
    group="festival",
    ends_at=STARTS_AT + dt.timedelta(hours=2),
    sections=[
        SectionDefinition("floor", name="Floor", capacity=100, price=4500),
        SectionDefinition("stalls", rows=[RowDefinition("A", "1-3"), RowDefinition("B", ["1", "2"])], price=9000),
    ],
    stops=["A", "B", "C"],
    policy=Policy(overbooking_percent=10),
    metadata={"poster": "https://example.org/p.png", "nested": {"n": 1.5, "list": [1, None, True]}},
)


async def mirror(lab: Lab, event_id: str) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]], list[object]]:
    """The sections, seats and counters that an event has as rows."""
    sections = await lab.fetch('SELECT "index", id, seated, capacity FROM sections WHERE event_id = $1', event_id)
    seats = await lab.fetch('SELECT "index", section, label FROM seats WHERE event_id = $1', event_id)
    usage = await lab.fetch("SELECT section, leg, sold, capacity FROM usage WHERE event_id = $1", event_id)
    return sorted(map(tuple, sections)), sorted(map(tuple, seats)), sorted(map(tuple, usage))


async def test_event_is_created_as_a_draft_and_read_back_as_it_was_given(lab: Lab) -> None:
    created = await lab.events.create(PLAY, organizer_id="olga")

    assert (created.id, created.organizer_id, created.status) == ("play", "olga", "draft")
    assert (created.version, created.epoch, created.definition) == (1, 0, PLAY)
    assert created.created_at == created.updated_at
    assert await lab.events.find_event("play") == created


async def test_event_is_mirrored_in_rows_for_reports(lab: Lab) -> None:
    await lab.events.create(PLAY, organizer_id="olga")

    sections, seats, usage = await mirror(lab, "play")

    assert sections == [(0, "floor", False, 110), (1, "stalls", True, 5)]
    assert seats == [(0, 1, "A-1"), (1, 1, "A-2"), (2, 1, "A-3"), (3, 1, "B-1"), (4, 1, "B-2")]
    assert usage == [(0, 0, 0, 110), (0, 1, 0, 110)]
    (row,) = await lab.fetch("SELECT group_id, name, starts_at, ends_at, currency, layout_digest FROM events")
    assert tuple(row) == (
        *(PLAY.group, PLAY.name, PLAY.starts_at, PLAY.ends_at, PLAY.currency),
        compile_layout(PLAY).digest,
    )


async def test_event_without_an_id_gets_a_short_one_of_its_own(lab: Lab) -> None:
    nameless = msgspec.structs.replace(PLAY, id=None)

    events = await asyncio.gather(*(lab.events.create(nameless, organizer_id="olga") for _ in range(20)))

    assert len({event.id for event in events}) == 20
    for event in events:
        assert event.definition.id == event.id
        assert len(event.id) == 10
        assert msgspec.convert(msgspec.to_builtins(event.definition), EventDefinition).id == event.id


async def test_event_of_an_id_that_is_taken_is_refused_even_when_many_try_at_once(lab: Lab) -> None:
    outcomes = await asyncio.gather(
        *(lab.events.create(PLAY, organizer_id=f"organizer {number}") for number in range(5)), return_exceptions=True
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Event"] + ["EventExists"] * 4
    with pytest.raises(EventExists):
        await lab.events.create(PLAY, organizer_id="olga")


async def test_event_that_does_not_fit_together_is_not_created(lab: Lab) -> None:
    with pytest.raises(InvalidRequest, match="ends_at"):
        await lab.events.create(msgspec.structs.replace(PLAY, ends_at=STARTS_AT), organizer_id="olga")
    with pytest.raises(EventNotFound):
        await lab.events.find_event("play")


@pytest.mark.parametrize("change", [{"name": "nul\x00"}, {"metadata": {"key": "nul\x00"}}, {"metadata": {"\x00": 1}}])
async def test_text_that_postgres_cannot_store_is_an_invalid_request(lab: Lab, change: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=r"U\+0000"):
        await lab.events.create(msgspec.structs.replace(PLAY, **change), organizer_id="olga")


async def test_text_that_only_looks_like_a_nul_is_stored(lab: Lab) -> None:
    named = msgspec.structs.replace(PLAY, name=r"backslash u: \u0000", metadata={"\\": "\U0001f3ad"})
    assert (await lab.events.create(named, organizer_id="olga")).definition == named


async def test_layouts_are_compiled_off_the_event_loop(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small request can name a million seats; who else is served meanwhile must not wait for them."""
    threads = []

    def compile_noting_the_thread(definition: EventDefinition) -> Layout:
        threads.append(threading.current_thread())
        return compile_layout(definition)

    monkeypatch.setattr(persistence.events, "compile_layout", compile_noting_the_thread)
    await lab.events.create(PLAY, organizer_id="olga")
    await lab.events.create_many([msgspec.structs.replace(PLAY, id="another")], organizer_id="olga")
    await lab.events.patch("play", EventPatch(name="Another name"), expected_version=None)

    assert len(threads) == 3
    assert threading.main_thread() not in threads


async def test_draft_is_patched_and_its_rows_with_it(lab: Lab) -> None:
    await lab.events.create(PLAY, organizer_id="olga")
    sections = [SectionDefinition("pit", capacity=7, price=100)]

    patched = await lab.events.patch(
        "play", EventPatch(name="Another Play", sections=sections, stops=None), expected_version=1
    )

    assert (patched.version, patched.definition.name) == (2, "Another Play")
    assert patched.definition == msgspec.structs.replace(PLAY, name="Another Play", sections=sections, stops=None)
    assert patched == await lab.events.find_event("play")
    assert await mirror(lab, "play") == ([(0, "pit", False, 7)], [], [(0, 0, 0, 7)])
    assert await lab.value("SELECT name FROM events") == "Another Play"


async def test_patch_that_moves_no_place_leaves_the_rows_alone(lab: Lab) -> None:
    await lab.events.create(PLAY, organizer_id="olga")
    before = await lab.value("SELECT min(xmin::text::bigint) FROM seats")

    await lab.events.patch("play", EventPatch(name="Another Play"), expected_version=None)

    assert await lab.value("SELECT min(xmin::text::bigint) FROM seats") == before


async def test_patch_is_checked_as_a_whole(lab: Lab) -> None:
    created = await lab.events.create(PLAY, organizer_id="olga")

    with pytest.raises(InvalidRequest, match="slots"):
        await lab.events.patch("play", EventPatch(slots=SlotsDefinition("17:00", 15, 8)), expected_version=1)

    assert await lab.events.find_event("play") == created


async def test_patch_of_an_old_version_is_refused_with_the_current_one(lab: Lab) -> None:
    await lab.events.create(PLAY, organizer_id="olga")
    await lab.events.patch("play", EventPatch(name="Second"), expected_version=1)

    with pytest.raises(VersionConflict) as refused:
        await lab.events.patch("play", EventPatch(name="Third"), expected_version=1)

    assert refused.value.current_version == 2


async def test_one_of_many_patches_of_the_same_version_wins(lab: Lab) -> None:
    await lab.events.create(PLAY, organizer_id="olga")

    outcomes = await asyncio.gather(
        *(lab.events.patch("play", EventPatch(name=f"Name {n}"), expected_version=1) for n in range(5)),
        return_exceptions=True,
    )

    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, Event))
    assert await lab.events.find_event("play") == winner
    assert [type(outcome) for outcome in outcomes if outcome is not winner] == [VersionConflict] * 4


async def test_event_that_was_opened_is_no_longer_patched(lab: Lab) -> None:
    await lab.events.create(PLAY, organizer_id="olga")
    await lab.events.transition("play", "open")

    with pytest.raises(EventNotDraft) as refused:
        await lab.events.patch("play", EventPatch(name="Late"), expected_version=None)

    assert refused.value.status == "open"


@pytest.mark.parametrize("to_status", EVENT_STATUSES)
@pytest.mark.parametrize("from_status", EVENT_STATUSES)
async def test_event_takes_the_steps_of_its_state_machine_and_no_other(
    lab: Lab, from_status: str, to_status: str
) -> None:
    await lab.events.create(PLAY, organizer_id="olga")
    await lab.fetch("UPDATE events SET status = $1", from_status)
    before = await lab.events.find_event("play")

    if to_status == from_status:
        assert await lab.events.transition("play", to_status, expected_version=99) == before  # type: ignore[arg-type]
    elif to_status in EVENT_TRANSITIONS[from_status]:
        after = await lab.events.transition("play", to_status, expected_version=1)  # type: ignore[arg-type]
        assert (after.status, after.version) == (to_status, 2)
        assert after.updated_at > before.updated_at
        assert after == await lab.events.find_event("play")
    else:
        with pytest.raises(InvalidTransition) as refused:
            await lab.events.transition("play", to_status)  # type: ignore[arg-type]
        assert refused.value.allowed == EVENT_TRANSITIONS[from_status]
        assert await lab.events.find_event("play") == before


async def test_transition_of_an_old_version_is_refused(lab: Lab) -> None:
    await lab.events.create(PLAY, organizer_id="olga")
    with pytest.raises(VersionConflict):
        await lab.events.transition("play", "open", expected_version=7)


async def test_event_without_sections_is_not_opened(lab: Lab) -> None:
    await lab.events.create(msgspec.structs.replace(PLAY, sections=[], stops=None), organizer_id="olga")
    with pytest.raises(InvalidRequest, match="section"):
        await lab.events.transition("play", "open")


async def test_event_that_is_not_there_is_not_found(lab: Lab) -> None:
    with pytest.raises(EventNotFound):
        await lab.events.find_event("nowhere")
    with pytest.raises(EventNotFound):
        await lab.events.patch("nowhere", EventPatch(name="x"), expected_version=None)
    with pytest.raises(EventNotFound):
        await lab.events.transition("nowhere", "open")
    async with lab.events.loading(["nowhere"]) as turn:
        assert (await turn.find_events(["nowhere"]), await turn.begin(["nowhere"])) == ({}, [])


async def make(lab: Lab, event_id: str, organizer_id: str, status: str = "draft", day: int = 0) -> None:
    starts_at = STARTS_AT + dt.timedelta(days=day)
    definition = msgspec.structs.replace(PLAY, id=event_id, starts_at=starts_at, ends_at=None)
    await lab.events.create(definition, organizer_id=organizer_id)
    await lab.fetch("UPDATE events SET status = $1 WHERE id = $2", status, event_id)


async def test_listing_shows_drafts_to_their_organizer_and_to_administrators_only(lab: Lab) -> None:
    await make(lab, "a", "olga", "draft")
    await make(lab, "b", "olga", "open")
    await make(lab, "c", "otto", "draft")
    await make(lab, "d", "otto", "cancelled")

    async def ids(**wanted: object) -> str:
        page = await lab.events.list_events(limit=50, **wanted)  # type: ignore[arg-type]
        return "".join(event.id for event in page.items)

    assert await ids() == "bd"
    assert await ids(drafts_of="olga") == "abd"
    assert await ids(drafts_of="nobody") == "bd"
    assert await ids(all_drafts=True) == "abcd"
    assert await ids(status="draft") == ""
    assert await ids(status="draft", drafts_of="otto") == "c"
    assert await ids(organizer_id="otto", drafts_of="olga") == "d"
    assert await ids(organizer_id="otto", all_drafts=True) == "cd"


async def test_listing_is_in_order_of_start_and_complete_while_events_are_made(lab: Lab) -> None:
    for number in range(11):
        await make(lab, f"event-{number:02d}", "olga", "open", day=number % 4)
    expected = sorted((number % 4, f"event-{number:02d}") for number in range(11))

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await lab.events.list_events(limit=3, cursor=cursor)
        seen += [event.id for event in page.items]
        await make(lab, f"earlier-{len(seen)}", "olga", "open", day=-1)
        if (cursor := page.next_cursor) is None:
            break

    assert seen == [event_id for _, event_id in expected]


async def test_large_venue_is_written_with_all_its_seats(lab: Lab) -> None:
    rows = [RowDefinition(f"R{number}", "1-1000") for number in range(100)]
    venue = msgspec.structs.replace(
        PLAY, sections=[SectionDefinition("bowl", rows=rows, price=100)], stops=None, policy=Policy()
    )

    await lab.events.create(venue, organizer_id="olga")

    assert await lab.value("SELECT count(*) FROM seats") == 100_000
    assert await lab.value('SELECT label FROM seats WHERE "index" = 99999') == "R99-1000"
