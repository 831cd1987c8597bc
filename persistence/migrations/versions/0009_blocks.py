"""Places off sale: blocks lie among the bookings, with statuses of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_STATUSES = (
    "'payment_initiated', 'paid', 'pending', 'confirmed', 'checked_in', 'completed', 'cancelled', 'rejected', "
    "'expired', 'failed', 'no_show', 'blocked', 'unblocked'"
)
_TRANSITIONS = (
    "from_status IS NULL AND to_status IN ('payment_initiated', 'pending', 'confirmed', 'expired', 'blocked') "
    f"OR from_status IS NOT NULL AND (from_status = to_status AND to_status IN ({_STATUSES}) "
    "OR from_status = 'payment_initiated' AND to_status IN ('paid', 'failed', 'expired', 'cancelled') "
    "OR from_status = 'paid' AND to_status IN ('pending', 'confirmed', 'cancelled') "
    "OR from_status = 'pending' AND to_status IN ('confirmed', 'rejected', 'cancelled', 'expired') "
    "OR from_status = 'confirmed' AND to_status IN ('checked_in', 'completed', 'cancelled', 'no_show') "
    "OR from_status = 'checked_in' AND to_status IN ('completed', 'cancelled') "
    "OR from_status = 'blocked' AND to_status IN ('unblocked'))"
)


def upgrade() -> None:
    op.drop_constraint(op.f("ck_bookings_status"), "bookings", type_="check")
    op.create_check_constraint("status", "bookings", f"status IN ({_STATUSES})")
    op.drop_constraint(op.f("ck_history_transition"), "history", type_="check")
    op.create_check_constraint("transition", "history", _TRANSITIONS)
    blocked = sa.text("status = 'blocked'")
    op.create_index("ix_bookings_blocked", "bookings", ["event_id", "number"], postgresql_where=blocked)
    op.create_index("ix_bookings_releasing", "bookings", ["expires_at"], postgresql_where=blocked)
