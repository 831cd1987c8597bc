"""Handlers of what is kept about a customer: erasing it."""

import msgspec

from api.answers import Answer, json_answer
from api.call import Call
from api.errors import Forbidden
from engine.lifecycle import Actor


class Erased(msgspec.Struct, frozen=True):
    """How many bookings the customer has; none of them says anything about people any more."""

    bookings: int


async def erase_personal_data(call: Call) -> Answer:
    """``DELETE /v1/customers/{customer_id}/personal-data`` → 200; for the customer and for admins."""
    customer_id = call.params["customer_id"]
    is_own = call.caller.sub == customer_id
    if call.caller.scope is not None or (not is_own and not call.caller.is_admin):  # a customer is of all events
        raise Forbidden
    actor = Actor(call.caller.sub, "customer" if is_own else "admin", call.request_id.decode("ascii"))
    return json_answer(Erased(await call.services.eraser.erase(customer_id, actor)))
