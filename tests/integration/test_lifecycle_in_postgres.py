"""Postgres keeps to the table of a booking's life by itself, whoever writes."""

import uuid

import pytest
import sqlalchemy as sa
from ledger_lab import Lab

from engine.lifecycle import BLOCK_STATUSES, STORED_STATUSES, allowed_from, transitions_condition
from persistence.database import in_transaction

pytest_plugins = ("ledger_fixtures",)

_INSERT = (
    "INSERT INTO history (booking_id, version, from_status, to_status, actor, role, at) "
    "VALUES (:id, 1, :origin, :end, 'x', 'x', now())"
)


async def is_taken(lab: Lab, origin: str | None, end: str) -> bool:
    """Whether Postgres takes a row of history with this arrow."""
    row = {"id": uuid.uuid4(), "origin": origin, "end": end}
    try:
        await in_transaction(lab.engine, lambda connection: connection.execute(sa.text(_INSERT), row))
    except sa.exc.IntegrityError:
        return False
    return True


async def test_history_takes_every_arrow_of_the_table_and_no_other(lab: Lab) -> None:
    stored = (*STORED_STATUSES, *BLOCK_STATUSES)
    statuses = (*stored, "confirming", "nonsense")
    taken = {(origin, end) for origin in (None, *statuses) for end in statuses if await is_taken(lab, origin, end)}

    arrows = {(origin, end) for origin in (None, *STORED_STATUSES) for end in allowed_from(origin)}
    blocks = {(None, "blocked"), ("blocked", "unblocked")}
    # What stays as it is may be recorded, too: its details, or its money, have changed.
    assert taken == arrows | blocks | {(status, status) for status in stored}


async def test_constraints_name_all_statuses(lab: Lab) -> None:
    query = "SELECT conname, pg_get_constraintdef(oid) AS told FROM pg_constraint WHERE conname = ANY($1::text[])"
    rows = await lab.fetch(query, ["ck_history_transition", "ck_bookings_status"])

    assert len(rows) == 2
    for row in rows:
        assert [status for status in (*STORED_STATUSES, *BLOCK_STATUSES) if f"'{status}'" not in row["told"]] == [], (
            row["conname"]
        )


@pytest.mark.parametrize("status", ["confirming", "nonsense", ""])
async def test_booking_of_no_status_of_the_table_is_not_taken(lab: Lab, status: str) -> None:
    sellable = await lab.event()
    await lab.ledger.commit(lab.entry(sellable, count=1), sellable)
    change = sa.text("UPDATE bookings SET status = :status")
    with pytest.raises(sa.exc.IntegrityError, match="ck_bookings_status"):
        await in_transaction(lab.engine, lambda connection: connection.execute(change, {"status": status}))


async def test_migrated_constraint_is_the_one_that_the_table_makes(lab: Lab) -> None:
    columns = "from_status text, to_status text"
    made = f"CREATE TABLE made ({columns}, CONSTRAINT of_the_table CHECK ({transitions_condition()}))"
    await in_transaction(lab.engine, lambda connection: connection.execute(sa.text(made)))

    query = "SELECT pg_get_constraintdef(oid) AS told FROM pg_constraint WHERE conname = ANY($1::text[])"
    rows = await lab.fetch(query, ["ck_history_transition", "of_the_table"])

    assert len(rows) == 2
    assert rows[0]["told"] == rows[1]["told"]
