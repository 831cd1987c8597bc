"""Events in Postgres: made and changed by organizers, listed, and read by one loader at a time."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from engine.currencies import check_currency
from engine.definition import EventDefinition, EventPatch
from engine.errors import (
    EventExists,
    EventNotDraft,
    EventNotFound,
    InvalidRequest,
    InvalidTransition,
    VersionConflict,
)
from engine.events import EVENT_TRANSITIONS, Event, EventStatus
from engine.layout import Layout, compile_layout
from persistence.advisory import advisory_locks
from persistence.database import Row, fetch_rows, in_transaction, sqlstate
from persistence.draft_blocks import replant_blocks
from persistence.event_rows import event_from_row, event_values
from persistence.loading import PostgresTurn
from persistence.paging import EventKey, Page, cut_page, decode_cursor
from persistence.places import replace_places
from persistence.schema import events

T = TypeVar("T")

EVENT_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
EVENT_ID_LENGTH = 10  # 50 random bits: short enough for a URL; one that exists already is simply drawn again
LOADING_LOCK = "holdfast load "
LOADING_WAIT_S = 10.0  # another process is loading the same event; a million bookings take a few seconds
COMPILING_MAX_S = 60  # of a transaction that writes many events: a million seats take a few seconds
PATCH_ATTEMPTS_MAX = 3  # of a patch without expected version that others overtake
_NUL_IN_TEXT = ("22P05", "22021")  # SQLSTATEs of jsonb and text for the one character that Postgres cannot store


class Events:
    """Organizers' events. Every method raises ``LedgerUnavailable`` when Postgres does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(self, definition: EventDefinition, *, organizer_id: str) -> Event:
        """Write a new draft; an event without an id gets one.

        Raises:
            InvalidRequest: Its fields do not fit together, or its currency does not exist.
            EventExists: There is one of this id.
        """
        check_currency(definition.currency)
        layout = await _compile(definition)
        return await self._in_transaction(lambda connection: _create(connection, definition, layout, organizer_id))

    async def create_many(
        self,
        definitions: Sequence[EventDefinition],
        *,
        organizer_id: str,
        on_written: Callable[[int], None] | None = None,
    ) -> list[Event]:
        """Write new drafts, all of them or none; *on_written* hears how many are written, and not yet durable.

        One transaction of a few milliseconds for each event, and a few seconds for one of a million seats.

        Raises:
            InvalidRequest: The fields of one do not fit together, or its currency does not exist.
            EventExists: There is one of an id.
        """
        for definition in definitions:
            check_currency(definition.currency)

        async def write(connection: AsyncConnection) -> list[Event]:
            # Compiling the next large layout takes longer than a transaction may usually be idle.
            await connection.execute(sa.text(f"SET LOCAL idle_in_transaction_session_timeout = '{COMPILING_MAX_S}s'"))
            created: list[Event] = []
            for definition in definitions:
                created.append(await _create(connection, definition, await _compile(definition), organizer_id))
                if on_written is not None:
                    on_written(len(created))
            return created

        return await self._in_transaction(write)

    async def find_event(self, event_id: str) -> Event:
        """The event as it stands now.

        Raises:
            EventNotFound: There is none.
        """
        return event_from_row(await self._row(event_id))

    async def list_events(
        self,
        *,
        organizer_id: str | None = None,
        status: str | None = None,
        drafts_of: str | None = None,
        all_drafts: bool = False,
        within: Collection[str] | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page[Event]:
        """Events by the time they start, narrowed to an organizer, a status, or those that *within* names.

        Drafts are left out, but for those of the organizer *drafts_of*, or with *all_drafts*.

        Raises:
            InvalidRequest: The cursor is none of this listing.
        """
        query = sa.select(events).order_by(events.c.starts_at, events.c.id).limit(limit + 1)
        if organizer_id is not None:
            query = query.where(events.c.organizer_id == organizer_id)
        if status is not None:
            query = query.where(events.c.status == status)
        if not all_drafts:
            query = query.where(sa.or_(events.c.status != "draft", events.c.organizer_id == drafts_of))
        if within is not None:
            query = query.where(events.c.id.in_(within))
        if cursor is not None:
            last = decode_cursor(cursor, EventKey)
            query = query.where(sa.tuple_(events.c.starts_at, events.c.id) > sa.tuple_(last.at, last.id))
        rows = await fetch_rows(self._engine, query)
        keys = [EventKey(row["starts_at"], row["id"]) for row in rows]
        return cut_page([event_from_row(row) for row in rows], keys, limit=limit)

    async def patch(self, event_id: str, patch: EventPatch, *, expected_version: int | None) -> Event:
        """Change a draft.

        Compiling a large layout takes seconds, so no lock is held meanwhile: the change is written only if the version
        is still the one that was read.

        Raises:
            EventNotFound: There is no such event.
            EventNotDraft: It was opened.
            VersionConflict: It is not at *expected_version*, or others kept changing it.
            InvalidRequest: The fields would not fit together, or not with a block of the event's places; or the
                currency that it names does not exist.
        """
        if isinstance(patch.currency, str):
            check_currency(patch.currency)
        for _ in range(PATCH_ATTEMPTS_MAX):
            row = await self._row(event_id)
            event = event_from_row(row)
            if event.status != "draft":
                raise EventNotDraft(event_id, event.status)
            _check_version(event, expected_version)
            definition = patch.apply(event.definition)
            layout = await _compile(definition)
            change = _change(event, **event_values(definition, layout))
            new_layout = layout if layout.digest != row["layout_digest"] else None
            changed = await self._in_transaction(partial(_write_anew, statement=change, layout=new_layout))
            if changed is not None:
                return changed
        raise VersionConflict((await self.find_event(event_id)).version)

    async def transition(self, event_id: str, to_status: EventStatus, *, expected_version: int | None = None) -> Event:
        """Open, close or cancel an event; one that is there already is left as it is, so that a retry succeeds.

        Raises:
            EventNotFound: There is no such event.
            InvalidTransition: Its status cannot become *to_status*.
            VersionConflict: It is not at *expected_version*.
            InvalidRequest: An event without sections was to be opened.
        """

        async def step(connection: AsyncConnection) -> Event:
            # Not FOR UPDATE, which would wait for group commits under way on a hot event, again and again.
            locked = sa.select(events).where(events.c.id == event_id).with_for_update(key_share=True)
            row = (await connection.execute(locked)).mappings().one_or_none()
            if row is None:
                raise EventNotFound(event_id)
            event = event_from_row(row)
            if event.status == to_status:
                return event
            _check_version(event, expected_version)
            allowed = EVENT_TRANSITIONS[event.status]
            if to_status not in allowed:
                raise InvalidTransition(event.status, to_status, allowed)
            if to_status == "open" and not event.definition.sections:
                raise InvalidRequest("$.sections", "an event needs a section before it can be opened")
            more = {"aftercare_at": sa.func.now()} if to_status == "cancelled" else {}
            changed = await connection.execute(_change(event, status=to_status, **more))
            return event_from_row(changed.mappings().one())

        return await in_transaction(self._engine, step)

    @asynccontextmanager
    async def loading(self, event_ids: Sequence[str]) -> AsyncIterator[PostgresTurn]:
        """The turn to load *event_ids*: one loader at a time of each, over all processes, until the context ends.

        Of several, those are left out that somebody else is loading just now. If that is all of them, one is waited
        for. The locks are the session's, so a loader that dies gives its turn up.

        Raises:
            LedgerUnavailable: Others have been loading for more than ten seconds, or Postgres does not answer.
        """
        names = {f"{LOADING_LOCK}{event_id}": event_id for event_id in event_ids}
        async with advisory_locks(self._engine, list(names), wait_s=LOADING_WAIT_S) as (connection, taken):
            turn = PostgresTurn(connection, [names[name] for name in taken])
            yield turn
            await turn.end()

    async def _in_transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run *work*, which writes what an organizer has said."""
        try:
            return await in_transaction(self._engine, work)
        except sa.exc.DBAPIError as error:
            if sqlstate(error) not in _NUL_IN_TEXT:
                raise
            raise InvalidRequest("$", "text must not contain the character U+0000") from error

    async def _row(self, event_id: str) -> Row:
        rows = await fetch_rows(self._engine, sa.select(events).where(events.c.id == event_id))
        if not rows:
            raise EventNotFound(event_id)
        return rows[0]


async def _compile(definition: EventDefinition) -> Layout:
    """Off the event loop: thirty kilobytes of ranges can name a million seats, seconds in which nobody were served."""
    return await asyncio.to_thread(compile_layout, definition)


async def _create(connection: AsyncConnection, definition: EventDefinition, layout: Layout, organizer_id: str) -> Event:
    while True:
        named = definition if definition.id else msgspec.structs.replace(definition, id=_new_event_id())
        event = await _write(connection, statement=_insertion(named, layout, organizer_id), layout=layout)
        if event is not None:
            return event
        if definition.id:
            raise EventExists(definition.id)


async def _write(connection: AsyncConnection, *, statement: sa.Executable, layout: Layout | None) -> Event | None:
    """Run an insertion or change, and write the places of *layout* with it; ``None`` when no row was written."""
    row = (await connection.execute(statement)).mappings().one_or_none()
    if row is not None and layout is not None:
        await replace_places((await connection.get_raw_connection()).driver_connection, row["id"], layout)
    return None if row is None else event_from_row(row)


async def _write_anew(connection: AsyncConnection, *, statement: sa.Executable, layout: Layout | None) -> Event | None:
    """The same of a draft, which may have blocks."""
    event = await _write(connection, statement=statement, layout=layout)
    if event is not None and layout is not None:
        await replant_blocks((await connection.get_raw_connection()).driver_connection, event.id, layout)
    return event


def _insertion(definition: EventDefinition, layout: Layout, organizer_id: str) -> sa.Executable:
    row = insert(events).values(
        id=definition.id,
        organizer_id=organizer_id,
        status="draft",
        version=1,
        created_at=sa.func.now(),
        updated_at=sa.func.now(),
        **event_values(definition, layout),
    )
    return row.on_conflict_do_nothing(index_elements=[events.c.id]).returning(events)


def _change(event: Event, **values: Any) -> sa.Executable:
    """The change of an event that is still at the version that was read."""
    return (
        sa.update(events)
        .where(events.c.id == event.id, events.c.version == event.version)
        .values(version=event.version + 1, updated_at=sa.func.now(), **values)
        .returning(events)
    )


def _check_version(event: Event, expected_version: int | None) -> None:
    if expected_version is not None and event.version != expected_version:
        raise VersionConflict(event.version)


def _new_event_id() -> str:
    return "".join(secrets.choice(EVENT_ID_ALPHABET) for _ in range(EVENT_ID_LENGTH))
