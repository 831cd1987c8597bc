"""Steps remember the idempotency key they were taken with, and events when their bookings are to be looked through."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0005"


def upgrade() -> None:
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
