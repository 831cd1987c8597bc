"""The handler of an event's stream."""

from api.answers import EVENT_STREAM, Answer, Header
from api.call import Call
from api.decoding import decode_query, of_query
from api.seats import RangeQuery, visible_event

_HEADERS: tuple[Header, ...] = (
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would gather frames until it has a buffer of them
)


async def stream_event(call: Call) -> Answer:
    """``GET /v1/events/{event_id}/stream`` → 200, and goes on."""
    query = decode_query(call.query_string, RangeQuery)
    event_id = await visible_event(call)
    if call.scope["method"] == "HEAD":
        return Answer(200, content_type=EVENT_STREAM, headers=_HEADERS)
    with of_query():
        listener = await call.services.live.join(
            event_id, query.from_, query.to, caller=call.caller, last_id=call.headers.get(b"last-event-id")
        )
    return Answer(200, content_type=EVENT_STREAM, headers=_HEADERS, stream=listener)
