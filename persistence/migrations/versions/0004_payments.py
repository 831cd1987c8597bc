"""Payments, their refunds, and what their providers have said; what changes a booking has its payments looked at."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# Whoever changes a booking's status or what is granted back, in whatever transaction: its payments are due for a look
# some seconds later, should the process die before it has seen to them itself.
_TRIGGER = """
    CREATE FUNCTION holdfast_payments_are_due() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE payments SET check_at = now() + interval '10 seconds', tries = 0 WHERE booking_id = NEW.id;
        RETURN NULL;
    END $$;
"""
_ON_BOOKINGS = """
    CREATE TRIGGER payments_are_due AFTER UPDATE OF status, refunded, amount ON bookings FOR EACH ROW
      WHEN (NEW.payment_status <> 'none'
            AND (OLD.status, OLD.refunded, OLD.amount) IS DISTINCT FROM (NEW.status, NEW.refunded, NEW.amount))
      EXECUTE FUNCTION holdfast_payments_are_due()
"""


def upgrade() -> None:
    op.create_table(
        "payments",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Also the idempotency key that its provider knows it by."),
        sa.Column("booking_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False, comment="The provider's token of it; never a card's number."),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Text(),
            nullable=False,
            comment="initiated, pending, authorized, captured, declined, voided",
        ),
        sa.Column(
            "chosen", sa.Boolean(), nullable=False, server_default="false", comment="Its booking is bought with it."
        ),
        sa.Column("captured", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("provider_ref", sa.Text(), comment="The provider's own name of it."),
        sa.Column("redirect_url", sa.Text(), comment="Where the customer has to go."),
        sa.Column("reason", sa.Text(), comment="Why it was declined."),
        sa.Column("once", sa.LargeBinary(), comment="The scope of the idempotency key that its request came with."),
        sa.Column(
            "expires_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="The deadline of what it pays for.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "check_at",
            sa.DateTime(timezone=True),
            comment="When it is to be looked at again; NULL: all of it is settled.",
        ),
        sa.Column("tries", sa.Integer(), nullable=False, server_default="0", comment="Looks without progress."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("booking_id", "attempt", name=op.f("uq_payments_booking_id_attempt")),
        sa.CheckConstraint(
            "state IN ('initiated', 'pending', 'authorized', 'captured', 'declined', 'voided')",
            name=op.f("ck_payments_state"),
        ),
        sa.CheckConstraint("captured >= 0 AND captured <= amount", name=op.f("ck_payments_captured_within_amount")),
        comment="Every payment asked for; written before its provider is. A trigger on bookings sets check_at.",
    )
    op.create_index("ix_payments_chosen", "payments", ["booking_id"], unique=True, postgresql_where=sa.text("chosen"))
    op.create_index("ix_payments_due", "payments", ["check_at"], postgresql_where=sa.text("check_at IS NOT NULL"))
    op.create_table(
        "refunds",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Also the idempotency key that the provider knows it by."),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("booking_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="due, done, refused"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refunds")),
        sa.CheckConstraint("state IN ('due', 'done', 'refused')", name=op.f("ck_refunds_state")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_refunds_amount_positive")),
        comment="Money on its way back; written before its provider is asked.",
    )
    op.create_index(op.f("ix_refunds_booking_id"), "refunds", ["booking_id"], unique=False)
    op.create_table(
        "payment_events",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column(
            "id",
            sa.Text(collation="C"),
            nullable=False,
            comment="The provider's; one that comes again does nothing.",
        ),
        sa.Column("payment_id", sa.Uuid(), comment="NULL: no payment of ours."),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False, comment="The payment that it spoke of."),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("provider", "id", name=op.f("pk_payment_events")),
        comment="Every webhook of a payment provider that was believed.",
    )
    op.create_index(
        op.f("ix_payment_events_received_at"), "payment_events", ["received_at"], unique=False, postgresql_using="brin"
    )
    op.execute(_TRIGGER)
    op.execute(_ON_BOOKINGS)
