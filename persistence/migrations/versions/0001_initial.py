"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "bookings",
        sa.Column("id", sa.Uuid(), nullable=False, comment="The 128 bits of the booking's public id."),
        sa.Column(
            "number",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="In order of writing; the reference people read out is made from it.",
        ),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("customer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("payment_status", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False, comment="The epoch of the Redis that accepted it."),
        sa.Column("first_leg", sa.SmallInteger(), nullable=False),
        sa.Column("last_leg", sa.SmallInteger(), nullable=False, comment="The first leg behind the range."),
        sa.Column("places", sa.Text(), nullable=False, comment="engine.places: 0:1;0*2;1#100,101"),
        sa.Column("items", JSONB(), nullable=False, comment="Lines with prices, as they were when it was sold."),
        sa.Column("from_stop", sa.Text(), nullable=True),
        sa.Column("to_stop", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("refunded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column(
            "sealed", sa.LargeBinary(), nullable=False, comment="Guest, attendees, notes, source, metadata; encrypted."
        ),
        sa.Column("organizer_notes", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_by", sa.Text(collation="C"), nullable=True),
        sa.Column("cancellation_reason", sa.Text(), nullable=True),
        sa.Column("checked_in_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("estimated_pickup_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("estimated_dropoff_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("actual_pickup_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("actual_dropoff_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bookings")),
        sa.UniqueConstraint("number", name=op.f("uq_bookings_number")),
    )
    op.create_index(op.f("ix_bookings_customer_id_number"), "bookings", ["customer_id", "number"], unique=False)
    op.create_index(op.f("ix_bookings_event_id_number"), "bookings", ["event_id", "number"], unique=False)
    op.create_table(
        "claims",
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("seat", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("leg", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("booking_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "seat", "leg", name=op.f("pk_claims")),
        comment="Who owns a seat on a leg. The primary key is the second guard against selling a place twice.",
    )
    op.create_index(op.f("ix_claims_booking_id"), "claims", ["booking_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("organizer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False, comment="draft, open, closed, cancelled"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "epoch",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Raised, under FOR UPDATE, whenever the event's Redis state is built anew.",
        ),
        sa.Column("group_id", sa.Text(collation="C"), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column(
            "definition", JSONB(), nullable=False, comment="The whole definition; name and times are copies of it."
        ),
        sa.Column("layout_digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index(
        op.f("ix_events_organizer_id_starts_at_id"), "events", ["organizer_id", "starts_at", "id"], unique=False
    )
    op.create_index(op.f("ix_events_starts_at_id"), "events", ["starts_at", "id"], unique=False)
    op.create_table(
        "history",
        sa.Column("booking_id", sa.Uuid(), nullable=False),
        sa.Column(
            "version", sa.Integer(), autoincrement=False, nullable=False, comment="The booking's, after the step."
        ),
        sa.Column("from_status", sa.Text(), nullable=True, comment="NULL: the booking was made."),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(collation="C"), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request_id", sa.Text(collation="C"), nullable=True),
        sa.PrimaryKeyConstraint("booking_id", "version", name=op.f("pk_history")),
    )
    op.create_table(
        "idempotency",
        sa.Column("scope", sa.LargeBinary(), nullable=False, comment="Digest of caller, route and key."),
        sa.Column("body_digest", sa.LargeBinary(), nullable=False),
        sa.Column("booking_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_idempotency")),
    )
    op.create_index(
        op.f("ix_idempotency_created_at"), "idempotency", ["created_at"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "installation",
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_installation")),
        comment="Decisions made once for the whole installation, such as the number of partitions.",
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("booking_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="The booking's; its reference is made from it."),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(), nullable=False, comment="booking.created, booking.confirmed, …"),
        sa.Column("payload", JSONB(), nullable=False, comment="Status, places and money; never personal data."),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(
        "ix_outbox_unpublished", "outbox", ["id"], unique=False, postgresql_where=sa.text("published_at IS NULL")
    )
    op.create_table(
        "seats",
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("index", sa.Integer(), autoincrement=False, nullable=False, comment="The seat of claims.seat."),
        sa.Column("section", sa.SmallInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "index", name=op.f("pk_seats")),
        comment="The compiled layout, for reports; Holdfast itself reads events.definition.",
    )
    op.create_table(
        "sections",
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("index", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seated", sa.Boolean(), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False, comment="What may be sold, overbooking included."),
        sa.PrimaryKeyConstraint("event_id", "index", name=op.f("pk_sections")),
        comment="The compiled layout, for reports; Holdfast itself reads events.definition.",
    )
    op.create_table(
        "usage",
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("section", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("leg", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("sold", sa.Integer(), server_default="0", nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.CheckConstraint("sold >= 0 AND sold <= capacity", name=op.f("ck_usage_sold_within_capacity")),
        sa.PrimaryKeyConstraint("event_id", "section", "leg", name=op.f("pk_usage")),
        comment="Places sold of counted sections. The check is the second guard against selling too many.",
        postgresql_with={"fillfactor": 50},
    )
