"""One transaction of the ledger: many bookings at once, each of them written whole or refused whole.

The usual batch is one call (see ``persistence.straight_batch``); what follows is what any other one needs. Statements
are set-based, so that it costs a handful of round trips and one flush of the log whatever its size. Locks are taken in
one order everywhere, and each table's rows in ascending order of their key, so that batches of several processes do
not wait for each other in a circle. (Two might where customers may have one booking each, and two of them have two
entries each: the index of that has another order. Then the time limit of locks ends one, which is run again.)

1. ``events``, shared: a loader that raises the epoch comes before the batch or after it (see ``persistence.loading``);
   one that is to be looked through again is changed at once;
2. ``bookings``: of two processes writing the same booking, the second waits here, and then finds it written;
3. ``idempotency``: the same for two bookings made with the same key;
4. ``claims``: the guard of numbered seats;
5. ``usage``: the guard of counted sections. It comes last, because everybody buys in the same section of a hot
   event: its row is held for the flush of the log alone.

Bookings that lose (their place, or their key) end the transaction, which is rolled back and run again without them.
Nothing of a loser can remain, nor does the common case pay for savepoints; and a batch has losers only when Redis and
the ledger disagree. A verdict is given only when the batch it was reached in commits: until then it may be repeated.
The verdict on a place is written down, and stands: the booking that was in the way may be cancelled before the loser is
undone, and a second process that drains the same entry must not find its places free by then. It may have found them
free already. So a verdict has a transaction of its own, after the winners', beside which nobody writes: each batch
holds the lanes of its events, shared, and a verdict those of its losers alone; and it looks again first.

A booking that was paid for is there before its entry is, as ``payment_initiated``, without places. It is advanced
instead of inserted, through ``paid``; what has become of it meanwhile decides. That its entry is there says that the
money was set aside: so the payment is advanced with it, and nobody needs to have written that down before. It is locked
with its booking (whoever changes payments locks their booking first), and looked at only then.

An entry may come so late (from a journal that has waited, or as a dead letter that is tried again) that its event is
over, or cancelled, and nobody looks at its bookings any more: see ``persistence.aftercare``. Then the event is to be
looked through again, from the moment that the booking is there.

A block (see ``engine.blocks``) is written as a booking is. Its history has who made it; subscribers hear nothing of it.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from engine.ports import Committed, Refused, Sealer, UnwritableEntry
from persistence.bookings import HAD_PLACES, IDEMPOTENCY_TIME, open_booking
from persistence.database import Row
from persistence.ledger_entries import ReadyEntry
from persistence.straight_batch import (
    LANES_CLASS,
    as_json,
    bookings_as_json,
    claims_of,
    counters_of,
    lanes_of,
    write_straight,
)

Outcome = Committed | Refused | UnwritableEntry | None  # nothing to say of a booking that is written
Outcomes = dict[uuid.UUID, Outcome]

_LOCK_EVENTS = """
    SELECT id, epoch, aftercare_at IS NULL AS is_left FROM events WHERE id = ANY($1::text[]) ORDER BY id FOR KEY SHARE
"""
_LOOK_AGAIN = """
    WITH locked AS MATERIALIZED (SELECT id FROM events WHERE id = ANY($1::text[]) ORDER BY id FOR NO KEY UPDATE)
    UPDATE events SET aftercare_at = now() FROM locked WHERE events.id = locked.id AND aftercare_at IS NULL
"""
_SHARE_LANES = "SELECT pg_advisory_xact_lock_shared($1, lane) FROM unnest($2::int[]) AS lane"
_LOCK_LANES = "SELECT pg_advisory_xact_lock($1, lane) FROM unnest($2::int[]) AS lane"
# One that waits for its payment has no places yet: it is not what its entry wants written.
_FIND_BOOKINGS = f"""
    SELECT *, {HAD_PLACES} AS had_places FROM bookings WHERE id = ANY($1::uuid[]) AND status <> 'payment_initiated'
"""  # noqa: S608 - made of the constant above
_NOT_REFUSED = "NOT EXISTS (SELECT FROM refused_bookings WHERE refused_bookings.id = said.id)"
# What subscribers are to be told: ids, places and money, nothing that a person said. Rows of history and outbox are
# nobody else's business: they add no locks to the order.
_PAYLOAD = """jsonb_build_object(
                   'customer_id', customer_id, 'status', status, 'payment_status', payment_status,
                   'version', version, 'items', items, 'from', from_stop, 'to', to_stop,
                   'amount', amount, 'currency', currency, 'created_at', created_at, 'confirmed_at', confirmed_at
               )"""
_INSERT_BOOKINGS = "SELECT made_id, made_number FROM holdfast_insert_bookings($1)"  # migration 0010
# A statement of its own: what the next one sees of their payments is as it is now that nobody else changes them.
_LOCK_INITIATED = """
    SELECT id FROM bookings WHERE id = ANY($1::uuid[]) AND status = 'payment_initiated' ORDER BY id FOR NO KEY UPDATE
"""
_ADVANCE_BOOKINGS = f"""
    WITH given AS (
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[],
                             $6::timestamptz[], $7::text[], $8::text[], $9::uuid[], $10::text[])
                   AS said(id, status, epoch, updated_at, confirmed_at, expires_at, role, request_id,
                           payment_id, payment_ref)
         WHERE {_NOT_REFUSED}
           AND NOT EXISTS (SELECT FROM payments WHERE payments.id = said.payment_id AND payments.state = 'voided')
    ), authorized AS (
        UPDATE payments
           SET state = CASE payments.state WHEN 'captured' THEN 'captured' ELSE 'authorized' END,
               chosen = payments.chosen OR NOT EXISTS (
                   SELECT FROM payments AS other WHERE other.booking_id = payments.booking_id AND other.chosen
               ),
               provider_ref = COALESCE(given.payment_ref, payments.provider_ref), reason = NULL, tries = 0,
               updated_at = now()
          FROM given
         WHERE payments.id = given.payment_id AND payments.booking_id = given.id
    ), made AS (
        UPDATE bookings
           SET (status, epoch, updated_at, confirmed_at, expires_at)
             = (given.status, given.epoch, given.updated_at, given.confirmed_at, given.expires_at),
               payment_status = 'held', version = bookings.version + 2
          FROM given
         WHERE bookings.id = given.id
        RETURNING bookings.*, given.role, given.request_id
    ), recorded AS (
        INSERT INTO history (booking_id, version, from_status, to_status, actor, role, at, request_id)
        SELECT id, made.version + step.number, COALESCE(step.from_status, 'payment_initiated'),
               COALESCE(step.to_status, made.status), made.customer_id, made.role, made.updated_at, made.request_id
          FROM made
         CROSS JOIN (VALUES (-1, NULL, 'paid'), (0, 'paid', NULL)) AS step(number, from_status, to_status)
    ), told AS MATERIALIZED (
        SELECT id, number, event_id, status, updated_at, {_PAYLOAD} AS payload FROM made
    ), published AS (
        INSERT INTO outbox (booking_id, number, event_id, type, payload, created_at)
        SELECT id, number, event_id, type, payload, updated_at
          FROM told CROSS JOIN (VALUES ('booking.status_changed'), ('booking.confirmed')) AS types(type)
         WHERE type = 'booking.status_changed' OR status = 'confirmed'
    )
    SELECT * FROM made
"""  # noqa: S608 - made of the constants above
_RECORD_REFUSALS = """
    INSERT INTO refused_bookings (id, reason, at) SELECT id, reason, now() FROM unnest($1::uuid[], $2::text[])
           AS given(id, reason) ON CONFLICT DO NOTHING
"""
_FIND_REFUSALS = "SELECT id, reason FROM refused_bookings WHERE id = ANY($1::uuid[])"
_DURABLE_REASONS = ("places_taken", "one_booking")
_INSERT_KEYS = f"""
    INSERT INTO idempotency AS kept (scope, body_digest, booking_id, created_at)
    SELECT scope, body_digest, booking_id, now()
      FROM unnest($1::bytea[], $2::bytea[], $3::uuid[]) AS given(scope, body_digest, booking_id)
    ON CONFLICT (scope) DO UPDATE
       SET body_digest = excluded.body_digest, booking_id = excluded.booking_id, created_at = excluded.created_at
     WHERE kept.created_at < excluded.created_at - interval '{IDEMPOTENCY_TIME.total_seconds():.0f} seconds'
    RETURNING scope
"""  # noqa: S608 - made of the constant above
_FIND_KEYS = "SELECT scope, body_digest, booking_id FROM idempotency WHERE scope = ANY($1::bytea[])"
_CLAIMED = "json_to_recordset($1) AS given(event_id text, seat int, leg smallint, booking_id uuid)"
_INSERT_CLAIMS = f"""
    INSERT INTO claims (event_id, seat, leg, booking_id) SELECT * FROM {_CLAIMED} ON CONFLICT DO NOTHING
"""  # noqa: S608 - made of the constant above
# Asks what is there, not what was inserted: a claim that was in the way may be gone by now, and still it was.
_FIND_UNCLAIMED = f"""
    SELECT DISTINCT booking_id FROM {_CLAIMED}
     WHERE NOT EXISTS (SELECT FROM claims WHERE (claims.event_id, claims.seat, claims.leg, claims.booking_id)
                                              = (given.event_id, given.seat, given.leg, given.booking_id))
"""  # noqa: S608 - made of the constant above
_LOCK_USAGE = """
    SELECT event_id, section, leg, capacity - sold AS free
      FROM usage JOIN unnest($1::text[], $2::smallint[], $3::smallint[]) AS given(event_id, section, leg)
           USING (event_id, section, leg)
     ORDER BY event_id, section, leg FOR NO KEY UPDATE OF usage
"""
_RAISE_USAGE = """
    UPDATE usage SET sold = sold + given.quantity
      FROM unnest($1::text[], $2::smallint[], $3::smallint[], $4::int[]) AS given(event_id, section, leg, quantity)
     WHERE (usage.event_id, usage.section, usage.leg) = (given.event_id, given.section, given.leg)
"""


class _Lost(Exception):
    """Some bookings of the batch cannot be had; the transaction is rolled back and run again without them."""

    def __init__(self, refused: dict[uuid.UUID, Refused]) -> None:
        super().__init__(f"{len(refused)} bookings")
        self.refused = refused


async def write_batch(
    connection: Any, batch: Sequence[ReadyEntry], sealer: Sealer, *, describe: bool = True
) -> Outcomes:
    """Write *batch*, durably, and say what became of each booking; of two that exclude each other the first wins.

    Without *describe* nothing is said of those that are written: making bookings of them takes half as long again.
    No two entries may be of one booking, claim the same seat or carry the same idempotency key: the group commit puts
    such entries into different batches. *connection* is asyncpg's own. After a time-out, or a connection that is lost,
    it is not known what is written; any other exception leaves nothing.
    """
    if (numbers := await write_straight(connection, batch)) is not None:
        return {one.id: Committed(one.booking(numbers[one.id])) if describe else None for one in batch}
    is_by_itself = not connection.is_in_transaction()
    refused: dict[uuid.UUID, Refused] = {}
    while True:
        try:
            left = [one for one in batch if one.id not in refused]
            outcomes = await _attempt(connection, left, sealer, describe=describe)
            break
        except _Lost as lost:
            refused.update(lost.refused)
    lasting = [one for one in batch if one.id in refused and refused[one.id].reason in _DURABLE_REASONS]
    if lasting and is_by_itself:  # what a caller writes in its own transaction has no entry that could come again
        outcomes |= await _give_verdicts(connection, lasting, refused, sealer)
    return refused | outcomes


async def _attempt(connection: Any, batch: Sequence[ReadyEntry], sealer: Sealer, *, describe: bool) -> Outcomes:
    async with connection.transaction():
        await connection.execute(_SHARE_LANES, LANES_CLASS, lanes_of(batch))
        current, outcomes = await _check_epochs(connection, batch, sealer)
        numbers = await _insert_bookings(connection, [one for one in current if not one.is_paid])
        advanced = await _advance_bookings(connection, [one for one in current if one.is_paid])
        fresh = [one for one in current if one.id in numbers or one.id in advanced]
        if len(fresh) < len(current):
            # Written before: by an earlier attempt whose answer was lost, or by the reconciler. It was looked for
            # rather than assumed, so that a booking is never called durable because of somebody's rolled back row.
            written = numbers.keys() | advanced.keys()
            outcomes |= await _explain(connection, [one for one in current if one.id not in written], sealer)
        await _insert_keys(connection, fresh, sealer)
        await _insert_claims(connection, fresh)
        await _raise_usage(connection, fresh)
    for one in fresh:
        outcomes[one.id] = None
        if describe:
            is_new = one.id in numbers
            outcomes[one.id] = Committed(
                one.booking(numbers[one.id]) if is_new else open_booking(advanced[one.id], sealer)
            )
    return outcomes


async def _check_epochs(
    connection: Any, batch: Sequence[ReadyEntry], sealer: Sealer
) -> tuple[list[ReadyEntry], Outcomes]:
    """The entries of their event's current epoch, and what has become of the others."""
    event_ids = sorted({one.entry.event_id for one in batch})
    rows = await connection.fetch(_LOCK_EVENTS, event_ids)
    epochs = {row["id"]: row["epoch"] for row in rows}
    current = [one for one in batch if epochs.get(one.entry.event_id) == one.entry.epoch]
    others = [one for one in batch if epochs.get(one.entry.event_id) != one.entry.epoch]
    # Nobody stops looking at an event whose row is locked here: that takes the whole of it.
    left = {row["id"] for row in rows if row["is_left"]}
    if look_again := sorted(left & {one.entry.event_id for one in current}):
        await connection.execute(_LOOK_AGAIN, look_again)
    outcomes = await _find_stored(connection, others, sealer) if others else {}
    for one in others:
        if one.entry.event_id not in epochs:
            outcomes[one.id] = UnwritableEntry(f"booking {one.entry.booking_id}: the ledger has no such event")
        elif one.id not in outcomes:
            outcomes[one.id] = Refused("stale_epoch")
    return current, outcomes


async def _find_stored(connection: Any, entries: Sequence[ReadyEntry], sealer: Sealer) -> Outcomes:
    """Those of which nothing is left to be written: they are, or were ended before their payment came."""
    rows = await connection.fetch(_FIND_BOOKINGS, [one.id for one in entries])
    return {row["id"]: Committed(open_booking(row, sealer)) if row["had_places"] else Refused("ended") for row in rows}


async def _explain(connection: Any, entries: Sequence[ReadyEntry], sealer: Sealer) -> Outcomes:
    """What has become of entries that were not written.

    Raises:
        _Lost: Some are refused now for the first time.
    """
    outcomes = await _find_stored(connection, entries, sealer)
    missing = [one for one in entries if one.id not in outcomes]
    if missing:
        reasons = await connection.fetch(_FIND_REFUSALS, [one.id for one in missing])
        outcomes |= {row["id"]: Refused(row["reason"]) for row in reasons}
    for one in missing:
        if one.is_paid and one.id not in outcomes:  # its payment was let go meanwhile; the booking waits for another
            outcomes[one.id] = Refused("ended")
    # What is neither there nor refused met another constraint: its customer has a live booking, and may have but one.
    if rivals := {one.id: Refused("one_booking") for one in missing if one.id not in outcomes}:
        raise _Lost(rivals)
    return outcomes


async def _give_verdicts(
    connection: Any, losers: Sequence[ReadyEntry], refused: Mapping[uuid.UUID, Refused], sealer: Sealer
) -> Outcomes:
    """Write down that *losers* are refused, but for those that somebody else has written since; what became of them."""
    async with connection.transaction():
        await connection.execute(_LOCK_LANES, LANES_CLASS, lanes_of(losers))
        written = await _find_stored(connection, losers, sealer)
        verdicts = {one.id: refused[one.id].reason for one in losers if one.id not in written}
        await connection.execute(_RECORD_REFUSALS, list(verdicts), list(verdicts.values()))
    return written


async def _insert_bookings(connection: Any, entries: Sequence[ReadyEntry]) -> dict[uuid.UUID, int]:
    """The number of every booking that was not there yet."""
    if not entries:
        return {}
    return dict(await connection.fetch(_INSERT_BOOKINGS, bookings_as_json(entries)))


async def _advance_bookings(connection: Any, entries: Sequence[ReadyEntry]) -> dict[uuid.UUID, Row]:
    """The rows of the bookings that were paid for and have their places now."""
    if not entries:
        return {}
    locked = {row["id"] for row in await connection.fetch(_LOCK_INITIATED, [one.id for one in entries])}
    ordered = sorted((one for one in entries if one.id in locked), key=lambda one: one.id)
    columns = [
        [one.row[name] for one in ordered]
        for name in ("id", "status", "epoch", "updated_at", "confirmed_at", "expires_at")
    ]
    said = (
        [one.details.role for one in ordered],
        [one.details.request_id for one in ordered],
        [one.payment_id for one in ordered],
        [one.details.payment_ref for one in ordered],
    )
    return {row["id"]: row for row in await connection.fetch(_ADVANCE_BOOKINGS, *columns, *said)}


async def _insert_keys(connection: Any, entries: Sequence[ReadyEntry], sealer: Sealer) -> None:
    keyed = {one.entry.once: one for one in sorted(entries, key=lambda one: one.entry.once) if one.entry.once}
    if not keyed:
        return
    inserted = await connection.fetch(
        _INSERT_KEYS,
        list(keyed),
        [one.entry.body_digest for one in keyed.values()],
        [one.id for one in keyed.values()],
    )
    missing = keyed.keys() - {row["scope"] for row in inserted}
    if missing:
        raise _Lost(await _explain_keys(connection, [keyed[scope] for scope in missing], sealer))


async def _explain_keys(connection: Any, losers: Sequence[ReadyEntry], sealer: Sealer) -> dict[uuid.UUID, Refused]:
    kept = {row["scope"]: row for row in await connection.fetch(_FIND_KEYS, [one.entry.once for one in losers])}
    owner_ids = [row["booking_id"] for row in kept.values()]
    owners = {row["id"]: row for row in await connection.fetch(_FIND_BOOKINGS, owner_ids)}
    refused = {}
    for one in losers:
        key = kept[one.entry.once]
        if key["body_digest"] != one.entry.body_digest:
            refused[one.id] = Refused("key_reused")
        else:
            refused[one.id] = Refused("key_replayed", open_booking(owners[key["booking_id"]], sealer))
    return refused


async def _insert_claims(connection: Any, entries: Sequence[ReadyEntry]) -> None:
    claims = claims_of(entries)
    if not claims:
        return
    status = await connection.execute(_INSERT_CLAIMS, as_json(claims))
    if status == f"INSERT 0 {len(claims)}":
        return
    losers = await connection.fetch(_FIND_UNCLAIMED, as_json(claims))
    assert losers, "a claim was neither inserted nor missing"
    raise _Lost({row["booking_id"]: Refused("places_taken") for row in losers})


async def _raise_usage(connection: Any, entries: Sequence[ReadyEntry]) -> None:
    wanted = [(one, list(counters_of(one))) for one in entries if one.counts]
    if not wanted:
        return
    counters = sorted({counter for _, claimed in wanted for counter, _ in claimed})
    locked = await connection.fetch(_LOCK_USAGE, *zip(*counters, strict=True))
    free = {(row["event_id"], row["section"], row["leg"]): row["free"] for row in locked}
    raised: dict[tuple[str, int, int], int] = defaultdict(int)
    losers = {}
    for one, claimed in wanted:
        if any(free.get(counter, 0) - raised[counter] < quantity for counter, quantity in claimed):
            losers[one.id] = Refused("places_taken")
            continue
        for counter, quantity in claimed:
            raised[counter] += quantity
    if losers:
        raise _Lost(losers)
    await connection.execute(_RAISE_USAGE, *zip(*raised, strict=True), list(raised.values()))
