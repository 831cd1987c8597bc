"""The usual way of a payment, gone straight: set aside, booked, taken, with what is known handed on and not read again.

Whatever is unusual ends it where it stands, and the settler goes on from what the ledger says. So does the reconciler
when the process dies on the way: the booking's entry in the journal says that the money was set aside, and the ledger
writes both at once; a booking whose money has not been noted as taken is due, and taking it again takes nothing twice.
"""

import time
import uuid

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from engine import figures
from engine.bookings import Booking
from engine.errors import HoldfastError
from engine.ids import parse_claim_id
from engine.lifecycle import SYSTEM
from engine.payments import Charge, PaymentProvider, Said
from engine.reservations import Reservations
from persistence.database import driver_connection, retrying
from persistence.payment_beginning import Order
from persistence.steps import TOLD

# The booking says that it is paid for and its payment that it was taken, or neither: when either is not as it was left.
# Nobody waits for the disk: should Postgres lose this, the payment is due as it was before, and is asked about again.
_NOTE_TAKEN = f"""
    WITH soon AS MATERIALIZED (
        SELECT set_config('synchronous_commit', 'off', true)
    ), locked AS MATERIALIZED (
        SELECT bookings.id FROM bookings, soon
         WHERE bookings.id = $1 AND version = $2 AND status = 'confirmed' AND payment_status = 'held'
           AND amount = $3::bigint AND refunded = 0
           FOR NO KEY UPDATE OF bookings
    ), taken AS (
        UPDATE payments
           SET state = 'captured', captured = $3::bigint, provider_ref = COALESCE($5, provider_ref),
               updated_at = now(), check_at = NULL, tries = 0
          FROM locked
         WHERE payments.id = $4 AND payments.booking_id = locked.id AND payments.amount = $3::bigint
           AND state = 'authorized' AND chosen
        RETURNING payments.booking_id
    ), made AS (
        UPDATE bookings SET payment_status = 'completed', version = version + 1, updated_at = now()
          FROM taken WHERE bookings.id = taken.booking_id
        RETURNING bookings.*
    ), recorded AS (
        INSERT INTO history (booking_id, version, from_status, to_status, actor, role, at)
        SELECT id, version, status, status, $6::text, $7::text, updated_at FROM made
    ), published AS (
        INSERT INTO outbox (booking_id, number, event_id, type, payload, created_at)
        SELECT id, number, event_id, 'booking.updated', {TOLD} || jsonb_build_object('from_status', status), updated_at
          FROM made
    )
    SELECT version, payment_status, updated_at FROM made
"""  # noqa: S608 - made of the constants above

logger = structlog.get_logger("holdfast.payments")


class StraightWay:
    """Goes it as far as it is straight."""

    def __init__(self, database: AsyncEngine, reservations: Reservations) -> None:
        self._database = database
        self._reservations = reservations

    async def book(self, order: Order, said: Said) -> Booking | None:
        """Turn the hold into the booking that *said* has set the money aside for; ``None``: it is not certain.

        The ledger advances payment and booking together, and only where the payment has not been let go meanwhile.
        """
        payment_id = order.details.payment_id
        assert payment_id is not None  # it is sealed with the details
        details = msgspec.structs.replace(order.details, payment_ref=said.provider_ref)
        try:
            booked = await self._reservations.confirm(
                order.hold_id, details, customer_id=order.customer_id, attempt=payment_id.encode()
            )
        except HoldfastError as error:  # the settler meets the same, and ends the booking where it has to
            logger.info("payment leaves the straight way", booking_id=order.hold_id, reason=type(error).__name__)
            return None
        return booked.booking if booked.booking.durable and not booked.replayed else None

    async def take(self, booking: Booking, charge: Charge, provider: PaymentProvider) -> tuple[Said, Booking | None]:
        """Take the money of a booking that has just been confirmed; the booking as it is then, if that is noted.

        Raises:
            LedgerUnavailable: Postgres does not answer.
        """
        began = time.perf_counter()
        said = await provider.capture(charge, booking.amount)
        figures.PAYMENTS.observe(time.perf_counter() - began, provider.name, "capture", said.outcome)
        if said.outcome != "captured" or said.captured != booking.amount:
            return said, None
        key = parse_claim_id(booking.id)
        assert key is not None, booking.id
        values = (key.uuid, booking.version, booking.amount, uuid.UUID(charge.key))
        words = (said.provider_ref, SYSTEM.id, SYSTEM.role)

        async def attempt() -> list[dict[str, object]]:
            async with driver_connection(self._database) as connection:
                rows: list[dict[str, object]] = await connection.fetch(_NOTE_TAKEN, *values, *words)
                return rows

        rows = await retrying(attempt)
        return said, msgspec.structs.replace(booking, **dict(rows[0])) if rows else None
