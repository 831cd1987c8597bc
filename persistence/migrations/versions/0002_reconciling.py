"""Reconcilers and what they are doing; who held which places when."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "reconcilers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=False, comment="How many it takes care of."),
        sa.Column("figures", JSONB(), nullable=False, comment="What it has found and done since it started."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconcilers")),
        comment="Heartbeats. Who may do what is decided by advisory locks, not by this.",
    )
    op.create_table(
        "hold_history",
        sa.Column("id", sa.Uuid(), nullable=False, comment="The 128 bits of the hold's public id."),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("customer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("places", sa.Text(), nullable=False, comment="engine.places: 0:1;0*2;1#100,101"),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "until_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it ended; its deadline while it lives.",
        ),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=True,
            comment="expired, released, confirmed, refused, rebuilt; NULL: it lives.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hold_history")),
        comment="Who held what when; kept for a while, then purged. Written in batches, after the fact.",
    )
    op.create_index(op.f("ix_hold_history_event_id_made_at"), "hold_history", ["event_id", "made_at"])
    op.create_index(op.f("ix_hold_history_made_at"), "hold_history", ["made_at"], unique=False, postgresql_using="brin")
