"""The life of a booking: its table of transitions as a constraint, its price, and verdicts that stand."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

_STATUSES = (
    "status IN ('payment_initiated', 'paid', 'pending', 'confirmed', 'checked_in', 'completed', 'cancelled', "
    "'rejected', 'expired', 'failed', 'no_show')"
)
_TRANSITIONS = (
    "from_status IS NULL AND to_status IN ('payment_initiated', 'pending', 'confirmed', 'expired') "
    "OR from_status = to_status "
    "OR from_status = 'payment_initiated' AND to_status IN ('paid', 'failed', 'expired', 'cancelled') "
    "OR from_status = 'paid' AND to_status IN ('pending', 'confirmed', 'cancelled') "
    "OR from_status = 'pending' AND to_status IN ('confirmed', 'rejected', 'cancelled', 'expired') "
    "OR from_status = 'confirmed' AND to_status IN ('checked_in', 'completed', 'cancelled', 'no_show') "
    "OR from_status = 'checked_in' AND to_status IN ('completed', 'cancelled')"
)
_LIVE = "status IN ('payment_initiated', 'paid', 'pending', 'confirmed', 'checked_in')"


def upgrade() -> None:
    op.add_column(
        "bookings",
        sa.Column(
            "price",
            JSONB(),
            nullable=True,
            comment="How the amount is made up; NULL: the sections' prices, and nothing else.",
        ),
    )
    op.add_column(
        "bookings",
        sa.Column(
            "exclusive",
            sa.Boolean(),
            nullable=False,
            server_default="false",
            comment="Its event takes one live booking per customer.",
        ),
    )
    op.alter_column("bookings", "refunded", comment="What was granted back, in all.")
    op.create_check_constraint("status", "bookings", _STATUSES)
    op.create_check_constraint("refunded_within_amount", "bookings", "refunded >= 0 AND refunded <= amount")
    op.create_check_constraint("transition", "history", _TRANSITIONS)
    op.create_index(
        "ix_bookings_one_per_customer",
        "bookings",
        ["event_id", "customer_id"],
        unique=True,
        postgresql_where=sa.text(f"exclusive AND {_LIVE}"),
    )
    op.create_index(
        "ix_bookings_expiring",
        "bookings",
        ["expires_at"],
        postgresql_where=sa.text("status IN ('payment_initiated', 'pending')"),
    )
    op.create_table(
        "refused_bookings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="places_taken, one_booking"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refused_bookings")),
        comment="Bookings that were told no. A verdict stands: what was in their way may be gone when they come again.",
    )
    op.create_index(op.f("ix_refused_bookings_at"), "refused_bookings", ["at"], unique=False, postgresql_using="brin")
