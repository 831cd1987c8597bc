"""The tables of the ledger, as SQLAlchemy Core knows them; migrations build them, a test compares the two.

Ids are text in the collation "C": they compare as bytes, the same on every machine, and faster than words do. What
customers say about people is only in ``bookings.sealed``; every other column may be read by whoever runs reports.

There are no foreign keys. Bookings, claims and history are written by the group commit alone, in one transaction that
holds the event's row; a foreign key would take the same row lock and one more index probe again for every place sold
(measured: a batch takes 1.3 to 1.5 times as long), and could find nothing that the transaction has not established.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from engine.lifecycle import statuses_condition, transitions_condition

# Names for every constraint, so that a later migration can speak of them.
metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

ONE_AT_A_TIME = "status IN ('payment_initiated', 'paid', 'pending', 'confirmed', 'checked_in')"  # a customer's live one
IS_IN_LINE = "status IN ('waiting', 'offered')"  # a customer has one live entry of an event
IS_BLOCKED = "status = 'blocked'"  # a live block: see engine.blocks
IS_EXPIRING = "status IN ('payment_initiated', 'pending')"  # what a deadline can end


def _id() -> sa.Text:
    return sa.Text(collation="C")


def _moment() -> sa.DateTime:
    return sa.DateTime(timezone=True)


installation = sa.Table(
    "installation",
    metadata,
    sa.Column("key", _id(), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    comment="Decisions made once for the whole installation, such as the number of partitions.",
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _id(), primary_key=True),
    sa.Column("organizer_id", _id(), nullable=False),
    sa.Column("status", sa.Text, nullable=False, comment="draft, open, closed, cancelled"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column(
        "epoch",
        sa.BigInteger,
        nullable=False,
        server_default="0",
        comment="Raised, under FOR UPDATE, whenever the event's Redis state is built anew.",
    ),
    sa.Column("group_id", _id()),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("starts_at", _moment(), nullable=False),
    sa.Column("ends_at", _moment()),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("definition", JSONB, nullable=False, comment="The whole definition; name and times are copies of it."),
    sa.Column("layout_digest", sa.Text, nullable=False),
    sa.Column(
        "aftercare_at",
        _moment(),
        comment="When its bookings are to be looked through, because it is over or cancelled; NULL: never again.",
    ),
    sa.Column("created_at", _moment(), nullable=False),
    sa.Column("updated_at", _moment(), nullable=False),
    sa.Index("ix_events_aftercare", "aftercare_at", postgresql_where=sa.text("aftercare_at IS NOT NULL")),
    sa.Index(None, "starts_at", "id"),
    sa.Index(None, "organizer_id", "starts_at", "id"),
)

sections = sa.Table(
    "sections",
    metadata,
    sa.Column("event_id", _id(), primary_key=True),
    sa.Column("index", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("seated", sa.Boolean, nullable=False),
    sa.Column("capacity", sa.Integer, nullable=False, comment="What may be sold, overbooking included."),
    comment="The compiled layout, for reports; Holdfast itself reads events.definition.",
)

seats = sa.Table(
    "seats",
    metadata,
    sa.Column("event_id", _id(), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False, comment="The seat of claims.seat."),
    sa.Column("section", sa.SmallInteger, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    comment="The compiled layout, for reports; Holdfast itself reads events.definition.",
)

bookings = sa.Table(
    "bookings",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="The 128 bits of the booking's public id."),
    sa.Column(
        "number",
        sa.BigInteger,
        sa.Identity(always=True),
        nullable=False,
        comment="In order of writing; the reference people read out is made from it.",
    ),
    sa.Column("event_id", _id(), nullable=False),
    sa.Column("customer_id", _id(), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("payment_status", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False, comment="The epoch of the Redis that accepted it."),
    sa.Column("first_leg", sa.SmallInteger, nullable=False),
    sa.Column("last_leg", sa.SmallInteger, nullable=False, comment="The first leg behind the range."),
    sa.Column("places", sa.Text, nullable=False, comment="engine.places: 0:1;0*2;1#100,101"),
    sa.Column("items", JSONB, nullable=False, comment="Lines with prices, as they were when it was sold."),
    sa.Column("from_stop", sa.Text),
    sa.Column("to_stop", sa.Text),
    sa.Column("price", JSONB, comment="How the amount is made up; NULL: the sections' prices, and nothing else."),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("refunded", sa.BigInteger, nullable=False, server_default="0", comment="What was granted back, in all."),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column(
        "exclusive",
        sa.Boolean,
        nullable=False,
        server_default="false",
        comment="Its event takes one live booking per customer.",
    ),
    sa.Column(
        "sealed", sa.LargeBinary, nullable=False, comment="Guest, attendees, notes, source, metadata; encrypted."
    ),
    sa.Column("organizer_notes", sa.Text),
    sa.Column("created_at", _moment(), nullable=False),
    sa.Column("updated_at", _moment(), nullable=False),
    sa.Column("confirmed_at", _moment()),
    sa.Column("cancelled_at", _moment()),
    sa.Column("cancelled_by", _id()),
    sa.Column("cancellation_reason", sa.Text),
    sa.Column("checked_in_at", _moment()),
    sa.Column("completed_at", _moment()),
    sa.Column("expires_at", _moment()),
    sa.Column("estimated_pickup_time", _moment()),
    sa.Column("estimated_dropoff_time", _moment()),
    sa.Column("actual_pickup_time", _moment()),
    sa.Column("actual_dropoff_time", _moment()),
    sa.UniqueConstraint("number"),
    sa.CheckConstraint(statuses_condition(), name="status"),
    sa.CheckConstraint("refunded >= 0 AND refunded <= amount", name="refunded_within_amount"),
    sa.Index(None, "customer_id", "number"),
    sa.Index(None, "event_id", "number"),
    sa.Index(
        "ix_bookings_one_per_customer",
        "event_id",
        "customer_id",
        unique=True,
        postgresql_where=sa.text(f"exclusive AND {ONE_AT_A_TIME}"),
    ),
    sa.Index("ix_bookings_expiring", "expires_at", postgresql_where=sa.text(IS_EXPIRING)),
    sa.Index("ix_bookings_blocked", "event_id", "number", postgresql_where=sa.text(IS_BLOCKED)),
    sa.Index("ix_bookings_releasing", "expires_at", postgresql_where=sa.text(IS_BLOCKED)),
)

refused_bookings = sa.Table(
    "refused_bookings",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False, comment="places_taken, one_booking"),
    sa.Column("at", _moment(), nullable=False),
    sa.Index(None, "at", postgresql_using="brin"),  # rows lie in order of time; purging needs no more
    comment="Bookings that were told no. A verdict stands: what was in their way may be gone when they come again.",
)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("event_id", _id(), primary_key=True),
    sa.Column("seat", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("leg", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("booking_id", sa.Uuid, nullable=False),
    sa.Index(None, "booking_id"),
    comment="Who owns a seat on a leg. The primary key is the second guard against selling a place twice.",
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("event_id", _id(), primary_key=True),
    sa.Column("section", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("leg", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("sold", sa.Integer, nullable=False, server_default="0"),
    sa.Column("capacity", sa.Integer, nullable=False),
    sa.CheckConstraint("sold >= 0 AND sold <= capacity", name="sold_within_capacity"),
    comment="Places sold of counted sections. The check is the second guard against selling too many.",
    postgresql_with={"fillfactor": 50},  # rows are updated with every batch: room for their next versions beside them
)

history = sa.Table(
    "history",
    metadata,
    sa.Column("booking_id", sa.Uuid, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False, comment="The booking's, after the step."),
    sa.Column("from_status", sa.Text, comment="NULL: the booking was made."),
    sa.Column("to_status", sa.Text, nullable=False),
    sa.Column("actor", _id(), nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("at", _moment(), nullable=False),
    sa.Column("request_id", _id()),
    sa.Column("once", sa.LargeBinary, comment="Digests of the idempotency key and body that it was asked for with."),
    sa.CheckConstraint(transitions_condition(), name="transition"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("scope", sa.LargeBinary, primary_key=True, comment="Digest of caller, route and key."),
    sa.Column("body_digest", sa.LargeBinary, nullable=False),
    sa.Column("booking_id", sa.Uuid, nullable=False),
    sa.Column("created_at", _moment(), nullable=False),
    sa.Index(None, "created_at", postgresql_using="brin"),  # rows lie in order of time; purging needs no more
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("booking_id", sa.Uuid, nullable=False, comment="Or the waitlist entry's, which its booking keeps."),
    sa.Column("number", sa.BigInteger, comment="The booking's; its reference is made from it. NULL: of no booking."),
    sa.Column("event_id", _id(), nullable=False),
    sa.Column("type", sa.Text, nullable=False, comment="booking.created, booking.confirmed, waitlist.joined, …"),
    sa.Column("payload", JSONB, nullable=False, comment="Status, places and money; never personal data."),
    sa.Column("created_at", _moment(), nullable=False),
    sa.Column("published_at", _moment()),
    sa.Index("ix_outbox_unpublished", "id", postgresql_where=sa.text("published_at IS NULL")),
)

waitlist = sa.Table(
    "waitlist",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Also of the hold it is offered, and of the booking of that."),
    sa.Column("event_id", _id(), nullable=False),
    sa.Column("customer_id", _id(), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False, comment="The higher is asked first."),
    sa.Column("places", sa.Text, nullable=False, comment="engine.places: 0:1;0*2;1#100,101;2?3"),
    sa.Column("items", JSONB, nullable=False, comment="The same as it was asked for."),
    sa.Column("from_stop", sa.Text),
    sa.Column("to_stop", sa.Text),
    sa.Column("joined_at", _moment(), nullable=False, comment="To the ms, as Redis has it: the order of one priority."),
    sa.Column("updated_at", _moment(), nullable=False),
    sa.Column("expires_at", _moment(), comment="Of the offer, once there was one."),
    sa.Column("passed_over", sa.Text, comment="The limit for which its turn has passed it over."),
    sa.Column("settled", sa.Boolean, nullable=False, comment="Whether Redis has heard of its status."),
    sa.CheckConstraint("status IN ('waiting', 'offered', 'booked', 'declined', 'expired', 'cancelled')", name="status"),
    sa.Index(
        "ix_waitlist_one_per_customer",
        "event_id",
        "customer_id",
        unique=True,
        postgresql_where=sa.text(IS_IN_LINE),
    ),
    sa.Index(
        "ix_waitlist_line", "event_id", "priority", "joined_at", "id", postgresql_where=sa.text("status = 'waiting'")
    ),
    sa.Index("ix_waitlist_unsettled", "id", postgresql_where=sa.text("NOT settled")),
    sa.Index("ix_waitlist_offered", "id", postgresql_where=sa.text("status = 'offered'")),
    sa.Index(None, "customer_id", "id"),
    sa.Index(None, "event_id", "id"),
    comment="People in line. What is decided here Redis hears of afterwards, and what Redis decides is written here.",
)

payments = sa.Table(
    "payments",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Also the idempotency key that its provider knows it by."),
    sa.Column("booking_id", sa.Uuid, nullable=False),
    sa.Column("event_id", _id(), nullable=False),
    sa.Column("attempt", sa.SmallInteger, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False, comment="The provider's token of it; never a card's number."),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, comment="initiated, pending, authorized, captured, declined, voided"),
    sa.Column("chosen", sa.Boolean, nullable=False, server_default="false", comment="Its booking is bought with it."),
    sa.Column(
        "for_change",
        sa.Boolean,
        nullable=False,
        server_default="false",
        comment="Asked for by a change that makes its booking dearer, which chooses it.",
    ),
    sa.Column("given_up", sa.Boolean, nullable=False, server_default="false", comment="No change will choose it."),
    sa.Column("captured", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("provider_ref", sa.Text, comment="The provider's own name of it."),
    sa.Column("redirect_url", sa.Text, comment="Where the customer has to go."),
    sa.Column("reason", sa.Text, comment="Why it was declined."),
    sa.Column("once", sa.LargeBinary, comment="The scope of the idempotency key that its request came with."),
    sa.Column("expires_at", _moment(), nullable=False, comment="The deadline of what it pays for."),
    sa.Column("created_at", _moment(), nullable=False),
    sa.Column("updated_at", _moment(), nullable=False),
    sa.Column("check_at", _moment(), comment="When it is to be looked at again; NULL: all of it is settled."),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0", comment="Looks without progress."),
    sa.UniqueConstraint("booking_id", "attempt"),
    sa.CheckConstraint(
        "state IN ('initiated', 'pending', 'authorized', 'captured', 'declined', 'voided')", name="state"
    ),
    sa.CheckConstraint("captured >= 0 AND captured <= amount", name="captured_within_amount"),
    sa.CheckConstraint("NOT (chosen AND given_up)", name="chosen_or_given_up"),
    sa.Index("ix_payments_chosen", "booking_id", unique=True, postgresql_where=sa.text("chosen AND NOT for_change")),
    sa.Index("ix_payments_due", "check_at", postgresql_where=sa.text("check_at IS NOT NULL")),
    comment="Every payment asked for; written before its provider is. A trigger on bookings sets check_at.",
)

refunds = sa.Table(
    "refunds",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="Also the idempotency key that the provider knows it by."),
    sa.Column("payment_id", sa.Uuid, nullable=False),
    sa.Column("booking_id", sa.Uuid, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, comment="due, done, refused"),
    sa.Column("created_at", _moment(), nullable=False),
    sa.Column("updated_at", _moment(), nullable=False),
    sa.CheckConstraint("state IN ('due', 'done', 'refused')", name="state"),
    sa.CheckConstraint("amount > 0", name="amount_positive"),
    sa.Index(None, "booking_id"),
    comment="Money on its way back; written before its provider is asked.",
)

payment_events = sa.Table(
    "payment_events",
    metadata,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("id", _id(), primary_key=True, comment="The provider's; one that comes again does nothing."),
    sa.Column("payment_id", sa.Uuid, comment="NULL: no payment of ours."),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("key", _id(), nullable=False, comment="The payment that it spoke of."),
    sa.Column("received_at", _moment(), nullable=False),
    sa.Index(None, "received_at", postgresql_using="brin"),  # rows lie in order of time; purging needs no more
    comment="Every webhook of a payment provider that was believed.",
)

sinks = sa.Table(
    "sinks",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("name", _id(), nullable=False),
    sa.Column("kind", sa.Text, nullable=False, comment="webhook, stream"),
    sa.Column("target", sa.Text, nullable=False, comment="The URL of a webhook, the key of a stream."),
    sa.Column("secrets", sa.LargeBinary, comment="Of a webhook, the newest first; encrypted."),
    sa.Column("types", ARRAY(sa.Text), nullable=False, comment="What it is told: booking.confirmed, booking.*"),
    sa.Column("created_at", _moment(), nullable=False),
    sa.Column("disabled_at", _moment()),
    sa.Column("disabled_reason", sa.Text),
    sa.UniqueConstraint("name"),
    comment="Where the outbox goes.",
)

# Rows are written three times within a moment and then deleted: vacuum must not wait for a fifth of a large table.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("sink_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("outbox_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("booking_id", sa.Uuid, nullable=False),
    sa.Column("queued_at", _moment(), nullable=False, comment="Its retries end some hours after this."),
    sa.Column(
        "due_at", _moment(), nullable=False, comment="Nobody may take it before: the end of a lease, or a retry."
    ),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("error", sa.Text, comment="Why the last attempt failed."),
    sa.Column("dead_at", _moment(), comment="Given up; a person must decide."),
    sa.Index("ix_deliveries_due", "sink_id", "due_at", "outbox_id", postgresql_where=sa.text("dead_at IS NULL")),
    sa.Index("ix_deliveries_dead", "sink_id", "outbox_id", postgresql_where=sa.text("dead_at IS NOT NULL")),
    sa.Index(None, "sink_id", "booking_id", "outbox_id"),
    comment="What a sink has still to be told; a row goes when it was.",
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.02},
)

reconcilers = sa.Table(
    "reconcilers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", _moment(), nullable=False),
    sa.Column("seen_at", _moment(), nullable=False),
    sa.Column("partitions", sa.Integer, nullable=False, comment="How many it takes care of."),
    sa.Column("figures", JSONB, nullable=False, comment="What it has found and done since it started."),
    comment="Heartbeats. Who may do what is decided by advisory locks, not by this.",
)

hold_history = sa.Table(
    "hold_history",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="The 128 bits of the hold's public id."),
    sa.Column("event_id", _id(), nullable=False),
    sa.Column("customer_id", _id(), nullable=False),
    sa.Column("places", sa.Text, nullable=False, comment="engine.places: 0:1;0*2;1#100,101"),
    sa.Column("made_at", _moment(), nullable=False),
    sa.Column("until_at", _moment(), nullable=False, comment="When it ended; its deadline while it lives."),
    sa.Column("outcome", sa.Text, comment="expired, released, confirmed, refused, rebuilt; NULL: it lives."),
    sa.Index(None, "event_id", "made_at"),
    sa.Index(None, "made_at", postgresql_using="brin"),  # rows lie in order of time; purging needs no more
    comment="Who held what when; kept for a while, then purged. Written in batches, after the fact.",
)
