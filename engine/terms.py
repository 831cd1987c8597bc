"""On what terms places are booked: what an inventory service says to it, and what they cost, agreed before the booking.

The services are asked about places that are held already, so that what they say is said of places that nobody else can
take meanwhile. In the one-step form the places are held first; when it comes to nothing they are given back. Events
whose policies ask nobody are booked as ever, without a look at any of this.
"""

import msgspec
import structlog

from engine.bookings import BookingDetails, Price
from engine.claim_requests import Booked, ClaimRequest
from engine.claims import describe_places
from engine.definition import EventDefinition
from engine.errors import (
    HoldConfirmed,
    HoldExpired,
    HoldfastError,
    HoldNotFound,
    HoldReleased,
    InvalidRequest,
    InventoryUnavailable,
    PlacesUnavailable,
    StoreUnavailable,
    UnavailablePlace,
)
from engine.events import SellableEvent
from engine.holds import Hold
from engine.ids import parse_claim_id
from engine.inventory import InventoryProvider
from engine.once import Once
from engine.places import Places
from engine.price_changes import Priced
from engine.pricing import PricingProvider, WantedPlaces, sections_price
from engine.reservations import Reservations

logger = structlog.get_logger("holdfast.engine")


class Terms:
    """Books on the terms of the event's policy. Without *pricing* or *inventory* this process knows no such service."""

    def __init__(
        self,
        reservations: Reservations,
        *,
        pricing: PricingProvider | None = None,
        inventory: InventoryProvider | None = None,
    ) -> None:
        self._reservations = reservations
        self._pricing = pricing
        self._inventory = inventory

    def require_services(self, definition: EventDefinition) -> None:
        """Make sure that the services an event's policy asks for are there, before it is put on sale.

        Raises:
            InvalidRequest: One is not configured.
        """
        policy = definition.policy
        if policy.pricing == "service" and self._pricing is None:
            raise InvalidRequest("$.policy.pricing", "no pricing service is configured here (HOLDFAST_PRICING_URL)")
        if policy.inventory == "service" and self._inventory is None:
            raise InvalidRequest("$.policy.inventory", "no inventory service is configured (HOLDFAST_INVENTORY_URL)")

    async def confirm(
        self, hold_id: str, details: BookingDetails, *, customer_id: str, once: Once | None = None
    ) -> Booked:
        """As :meth:`Reservations.confirm`, on the terms of the event. The hold lives on when it comes to nothing.

        Raises:
            InventoryUnavailable: The inventory service cannot be asked.
            PlacesUnavailable: It says no.
        """
        key = parse_claim_id(hold_id)
        if key is not None and await self._asks_somebody(key.event_id, hold_id):
            try:
                hold = await self._reservations.find_hold(hold_id, customer_id=customer_id)
            except (HoldConfirmed, HoldExpired, HoldReleased, HoldNotFound):
                if once is None:
                    raise
                # What an earlier request with this key has made of the hold, the confirmation knows.
            else:
                details = await self.agree(hold, details, customer_id=customer_id)
        return await self._reservations.confirm(hold_id, details, customer_id=customer_id, once=once)

    async def book(
        self, event_id: str, claim: ClaimRequest, details: BookingDetails, *, customer_id: str, once: Once | None = None
    ) -> Booked:
        """As :meth:`Reservations.book`, on the terms of the event; all or nothing.

        Raises:
            InventoryUnavailable: The inventory service cannot be asked.
            PlacesUnavailable: It says no, or they are not free.
        """
        reservations = self._reservations
        if not await self._asks_somebody(event_id):
            return await reservations.book(event_id, claim, details, customer_id=customer_id, once=once)
        # A repetition must not be told that the places are gone, which it has itself.
        if once is not None and (booked := await reservations.find_replay(event_id, once, customer_id=customer_id)):
            return booked
        hold = (await reservations.hold(event_id, claim, customer_id=customer_id)).hold
        try:
            agreed = await self.agree(hold, details, customer_id=customer_id)
            booked = await reservations.confirm(hold.id, agreed, customer_id=customer_id, once=once)
        except StoreUnavailable:
            raise  # it may be booked; if not, the hold lapses
        except HoldfastError:
            await self.give_back(hold, customer_id)
            raise
        if str(booked.booking.id) != hold.id:  # the same request, sent twice at once, has booked already
            await self.give_back(hold, customer_id)
        return booked

    async def agree_on_hold(self, hold_id: str, details: BookingDetails, *, customer_id: str) -> BookingDetails:
        """As :meth:`agree` for a live hold by its id; one of an event that asks nobody is not even looked at.

        Raises:
            HoldNotFound, HoldExpired, HoldReleased, HoldConfirmed: It is not live, or not this customer's.
        """
        key = parse_claim_id(hold_id)
        if key is None or not await self._asks_somebody(key.event_id, hold_id):
            return details
        hold = await self._reservations.find_hold(hold_id, customer_id=customer_id)
        return await self.agree(hold, details, customer_id=customer_id)

    async def hold_and_agree(
        self, event_id: str, claim: ClaimRequest, details: BookingDetails, *, customer_id: str, once: Once | None = None
    ) -> tuple[Hold, BookingDetails]:
        """Hold places and agree on their terms; when it comes to nothing they are given back.

        Safe to repeat with the same *once*: the hold is the one that it made, as long as that lives, and then another.
        That it has not come to a payment yet is for the caller to know.

        Raises:
            InventoryUnavailable, PlacesUnavailable: As :meth:`agree`; and whatever :meth:`Reservations.hold` raises.
        """
        held = await self._reservations.hold(event_id, claim, customer_id=customer_id, once=once)
        if held.replayed and await self._is_over(held.hold, customer_id):
            await self.give_back(held.hold, customer_id, once)
            held = await self._reservations.hold(event_id, claim, customer_id=customer_id, once=once)
        try:
            return held.hold, await self.agree(held.hold, details, customer_id=customer_id)
        except HoldfastError:
            await self.give_back(held.hold, customer_id, once)
            raise

    async def agree(self, hold: Hold, details: BookingDetails, *, customer_id: str) -> BookingDetails:
        """The details with the price that was agreed for the places of *hold*, if the inventory service consents.

        Where the event's policy asks nobody they come back as they are.

        Raises:
            InventoryUnavailable: The inventory service cannot be asked; the hold lives on.
            PlacesUnavailable: It says no; the hold lives on.
        """
        definition = (await self._reservations.find_event(hold.event_id)).definition
        wanted = WantedPlaces(
            event_id=hold.event_id,
            items=hold.items,
            from_=hold.from_,
            to=hold.to,
            customer_id=customer_id,
            currency=hold.currency,
            starts_at=definition.starts_at,
            amount=hold.amount,
        )
        if definition.policy.inventory == "service":
            await self._require_consent(wanted)
        if definition.policy.pricing == "fixed":
            return details
        return msgspec.structs.replace(details, price=await self._ask_price(wanted))

    async def reprice(self, event: SellableEvent, places: Places, customer_id: str) -> Priced:
        """What *places* cost that a booking is to have instead of its own, if the inventory service consents.

        Raises:
            InventoryUnavailable: The inventory service cannot be asked.
            PlacesUnavailable: It says no.
        """
        items, amount = describe_places(event.layout, places)
        policy = event.definition.policy
        wanted = WantedPlaces(
            event_id=event.event.id,
            items=items,
            from_=event.layout.stop_name(places.first_leg),
            to=event.layout.stop_name(places.last_leg),
            customer_id=customer_id,
            currency=event.definition.currency,
            starts_at=event.definition.starts_at,
            amount=amount,
        )
        if policy.inventory == "service":
            await self._require_consent(wanted)
        price = sections_price(wanted) if policy.pricing == "fixed" else await self._ask_price(wanted)
        return Priced(items, price)

    async def _ask_price(self, wanted: WantedPlaces) -> Price:
        if self._pricing is None:  # another process of this installation knows one, or knew
            return msgspec.structs.replace(sections_price(wanted), source="fallback")
        return await self._pricing.price(wanted)

    async def _asks_somebody(self, event_id: str, hold_id: str | None = None) -> bool:
        reservations = self._reservations
        try:
            event = reservations.recall_event(event_id) or await reservations.find_event(event_id)
        except HoldfastError:
            if hold_id is None:
                raise
            return False  # the confirmation says of the hold what is to be said
        policy = event.definition.policy
        return policy.pricing == "service" or policy.inventory == "service"

    async def _require_consent(self, wanted: WantedPlaces) -> None:
        if self._inventory is None:
            raise InventoryUnavailable("no inventory service is configured here")
        answer = await self._inventory.check(wanted)
        if answer.available:
            return
        unavailable: list[UnavailablePlace] = []
        for item in wanted.items:
            if item.seats is None:
                unavailable.append(UnavailablePlace(item.section, requested=item.quantity, free=0))
            else:
                unavailable += [UnavailablePlace(item.section, seat=seat) for seat in item.seats]
        place_count = sum(item.quantity for item in wanted.items)
        raise PlacesUnavailable(
            tuple(unavailable), held=0, sold=place_count, next_release_at=None, reason=answer.reason
        )

    async def _is_over(self, hold: Hold, customer_id: str) -> bool:
        """Whether a hold has ended without a booking, or is not known any more."""
        try:
            await self._reservations.find_hold(hold.id, customer_id=customer_id)
        except (HoldExpired, HoldReleased, HoldNotFound):
            return True
        except HoldConfirmed:
            pass  # by the same request, sent twice at once: whoever pays for it is told of the booking
        return False

    async def give_back(self, hold: Hold, customer_id: str, made_with: Once | None = None) -> None:
        """Let a hold go, and the key that it was *made_with*: what is asked for under it again is held anew.

        If that cannot be done now, the hold lapses.
        """
        try:
            await self._reservations.release(hold.id, customer_id=customer_id, made_with=made_with)
        except (HoldExpired, HoldReleased):
            pass  # by itself, or by the same request, sent twice at once
        except HoldfastError as error:
            logger.warning("a hold is left to lapse", hold_id=hold.id, reason=type(error).__name__)
