"""Steps remember the idempotency key they were taken with, and events when their bookings are to be looked through."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


_STATUSES = (
    "'payment_initiated', 'paid', 'pending', 'confirmed', 'checked_in', 'completed', 'cancelled', 'rejected', "
    "'expired', 'failed', 'no_show'"
)
# As before, but for what came out as NULL, and so passed: a beginning that the table does not have.
_TRANSITIONS = (
    "from_status IS NULL AND to_status IN ('payment_initiated', 'pending', 'confirmed', 'expired') "
    f"OR from_status IS NOT NULL AND (from_status = to_status AND to_status IN ({_STATUSES}) "
    "OR from_status = 'payment_initiated' AND to_status IN ('paid', 'failed', 'expired', 'cancelled') "
    "OR from_status = 'paid' AND to_status IN ('pending', 'confirmed', 'cancelled') "
    "OR from_status = 'pending' AND to_status IN ('confirmed', 'rejected', 'cancelled', 'expired') "
    "OR from_status = 'confirmed' AND to_status IN ('checked_in', 'completed', 'cancelled', 'no_show') "
    "OR from_status = 'checked_in' AND to_status IN ('completed', 'cancelled'))"
)


def upgrade() -> None:
    op.drop_constraint(op.f("ck_history_transition"), "history", type_="check")
    op.create_check_constraint("transition", "history", _TRANSITIONS)
    op.add_column(
        "history",
        sa.Column(
            "once",
            sa.LargeBinary(),
            nullable=True,
            comment="Digests of the idempotency key and body that it was asked for with.",
        ),
    )
    op.add_column(
        "events",
        sa.Column(
            "aftercare_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its bookings are to be looked through, because it is over or cancelled; NULL: never again.",
        ),
    )
    op.execute(
        "UPDATE events SET aftercare_at = CASE WHEN status = 'cancelled' THEN now() "
        "ELSE COALESCE(ends_at, starts_at + make_interval(hours => 24)) END"
    )
    op.create_index(
        "ix_events_aftercare",
        "events",
        ["aftercare_at"],
        unique=False,
        postgresql_where=sa.text("aftercare_at IS NOT NULL"),
    )
