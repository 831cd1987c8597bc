"""People in line for places, and an outbox that tells of them, too."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"

_OLD_COMMENTS = (
    None,
    "The booking's; its reference is made from it. NULL: of a hold.",
    "booking.created, booking.confirmed, …",
)
_NEW_COMMENTS = (
    "Or the waitlist entry's, which its booking keeps.",
    "The booking's; its reference is made from it. NULL: of no booking.",
    "booking.created, booking.confirmed, waitlist.joined, …",
)


def upgrade() -> None:
    for column, old, new in zip(("booking_id", "number", "type"), _OLD_COMMENTS, _NEW_COMMENTS, strict=True):
        op.alter_column("outbox", column, comment=new, existing_comment=old)
    op.create_table(
        "waitlist",
        sa.Column(
            "id", sa.Uuid(), nullable=False, comment="Also of the hold it is offered, and of the booking of that."
        ),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("customer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False, comment="The higher is asked first."),
        sa.Column("places", sa.Text(), nullable=False, comment="engine.places: 0:1;0*2;1#100,101;2?3"),
        sa.Column("items", JSONB(), nullable=False, comment="The same as it was asked for."),
        sa.Column("from_stop", sa.Text(), nullable=True),
        sa.Column("to_stop", sa.Text(), nullable=True),
        sa.Column(
            "joined_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="To the ms, as Redis has it: the order of one priority.",
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True, comment="Of the offer, once there was one."),
        sa.Column("passed_over", sa.Text(), nullable=True, comment="The limit for which its turn has passed it over."),
        sa.Column("settled", sa.Boolean(), nullable=False, comment="Whether Redis has heard of its status."),
        sa.CheckConstraint(
            "status IN ('waiting', 'offered', 'booked', 'declined', 'expired', 'cancelled')",
            name=op.f("ck_waitlist_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_waitlist")),
        comment="People in line. What is decided here Redis hears of afterwards, and what Redis decides is written "
        "here.",
    )
    op.create_index(
        "ix_waitlist_one_per_customer",
        "waitlist",
        ["event_id", "customer_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('waiting', 'offered')"),
    )
    op.create_index(
        "ix_waitlist_line",
        "waitlist",
        ["event_id", "priority", "joined_at", "id"],
        postgresql_where=sa.text("status = 'waiting'"),
    )
    op.create_index("ix_waitlist_unsettled", "waitlist", ["id"], postgresql_where=sa.text("NOT settled"))
    op.create_index("ix_waitlist_offered", "waitlist", ["id"], postgresql_where=sa.text("status = 'offered'"))
    op.create_index(op.f("ix_waitlist_customer_id_id"), "waitlist", ["customer_id", "id"])
    op.create_index(op.f("ix_waitlist_event_id_id"), "waitlist", ["event_id", "id"])
