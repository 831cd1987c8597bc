"""Payments that a change of places asks for: a booking may be bought with several."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column(
        "payments",
        sa.Column(
            "for_change",
            sa.Boolean(),
            nullable=False,
            server_default="false",
            comment="Asked for by a change that makes its booking dearer, which chooses it.",
        ),
    )
    op.add_column(
        "payments",
        sa.Column(
            "given_up", sa.Boolean(), nullable=False, server_default="false", comment="No change will choose it."
        ),
    )
    op.create_check_constraint("chosen_or_given_up", "payments", "NOT (chosen AND given_up)")
    op.drop_index("ix_payments_chosen", table_name="payments")
    op.create_index(
        "ix_payments_chosen",
        "payments",
        ["booking_id"],
        unique=True,
        postgresql_where=sa.text("chosen AND NOT for_change"),
    )
