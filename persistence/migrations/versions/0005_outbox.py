"""Where the outbox goes: sinks, and what each of them has still to be told."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.alter_column(
        "outbox",
        "number",
        nullable=True,
        comment="The booking's; its reference is made from it. NULL: of a hold.",
    )
    op.create_table(
        "sinks",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="webhook, stream"),
        sa.Column("target", sa.Text(), nullable=False, comment="The URL of a webhook, the key of a stream."),
        sa.Column("secrets", sa.LargeBinary(), nullable=True, comment="Of a webhook, the newest first; encrypted."),
        sa.Column("types", ARRAY(sa.Text()), nullable=False, comment="What it is told: booking.confirmed, booking.*"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sinks")),
        sa.UniqueConstraint("name", name=op.f("uq_sinks_name")),
        comment="Where the outbox goes.",
    )
    op.create_table(
        "deliveries",
        sa.Column("sink_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("outbox_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("booking_id", sa.Uuid(), nullable=False),
        sa.Column(
            "queued_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Its retries end some hours after this.",
        ),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Nobody may take it before: the end of a lease, or a retry.",
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True, comment="Why the last attempt failed."),
        sa.Column(
            "dead_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Given up; a person must decide.",
        ),
        sa.PrimaryKeyConstraint("sink_id", "outbox_id", name=op.f("pk_deliveries")),
        comment="What a sink has still to be told; a row goes when it was.",
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.02},
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["sink_id", "due_at", "outbox_id"],
        postgresql_where=sa.text("dead_at IS NULL"),
    )
    op.create_index(
        "ix_deliveries_dead",
        "deliveries",
        ["sink_id", "outbox_id"],
        postgresql_where=sa.text("dead_at IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_deliveries_sink_id_booking_id_outbox_id"), "deliveries", ["sink_id", "booking_id", "outbox_id"]
    )
