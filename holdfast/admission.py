"""Admission control: how many requests a process works on at once, and who is turned away. Nobody waits.

Were every request begun as it comes, all of them would share one core, and past capacity none would be answered in
time. Here requests under way are counted by class, and one that comes while its class has no room is refused at once:
that costs a third of a hold. So what has been let in waits for no more than what is under way: at 128 and a third of
a millisecond each, some 40 ms. Who comes first when there is too much follows from the bounds alone:

- ``confirm``  bookings, their steps, payments, offers accepted: they wait for Postgres, which costs no CPU, and commit
  in groups. They are bounded apart, four times as wide, and never refused for anything else that is under way;
- ``hold``     what is done to holds: refused when as many holds and reads as the bound are under way;
- ``read``     what is read from Redis or memory: refused at half of that, so that holds still get in;
- ``record``   what is read from or written to Postgres otherwise: gives way as reads do, and is bounded apart at half,
  so that requests stuck on a Postgres that is away keep neither holds nor reads out.
"""

IN_FLIGHT = 128  # so that 64 connections, each with a request under way, are refused nothing (decision 28)
CONFIRMS = 4  # times as many confirms
RETRY_AFTER_MAX_S = 4

CONFIRM, HOLD, READ, RECORD = "confirm", "hold", "read", "record"
_NEVER = frozenset(("/healthz", "/readyz", "/metrics"))
_CONFIRMS = ("/v1/bookings", "/v1/payments/")
_READS = ("/availability", "/seats", "/stream")


def class_of(method: str, path: str) -> str | None:
    """The class of a request by its head alone; ``None`` for what is never turned away.

    Paths of routes may be given as well as those of requests. Anything unknown is a ``record``, the least urgent.
    """
    if method in ("GET", "HEAD"):
        if path in _NEVER:
            return None
        return READ if path.endswith(_READS) or path.startswith("/v1/holds/") else RECORD
    if path.endswith("/holds") or path.startswith("/v1/holds"):
        return HOLD
    is_offer = path.startswith("/v1/waitlist/") and path.endswith("/accept")
    return CONFIRM if is_offer or path.startswith(_CONFIRMS) else RECORD


class Admission:
    """The requests that one process has under way; used in its event loop only."""

    def __init__(self, in_flight: int = IN_FLIGHT) -> None:
        self._bound = in_flight
        self._half = max(1, in_flight // 2)
        self._confirms_max = in_flight * CONFIRMS
        self._under_way = dict.fromkeys((CONFIRM, HOLD, READ, RECORD), 0)
        self._refusals = 0

    @property
    def is_pressed(self) -> bool:
        """Whether anything at all would be refused; cheap, for every request asks."""
        under_way, half = self._under_way, self._half
        return (
            under_way[HOLD] + under_way[READ] >= half
            or under_way[RECORD] >= half
            or under_way[CONFIRM] >= self._confirms_max
        )

    def has_room(self, name: str) -> bool:
        """Whether one more request of this class may begin."""
        under_way = self._under_way
        if name == CONFIRM:
            return under_way[CONFIRM] < self._confirms_max
        crowd = under_way[HOLD] + under_way[READ]
        if name == HOLD:
            return crowd < self._bound
        return crowd < self._half and (name == READ or under_way[RECORD] < self._half)

    def begin(self, name: str) -> None:
        """Count a request as under way; whoever calls this calls :meth:`end` once."""
        self._under_way[name] += 1

    def end(self, name: str) -> None:
        """It is not any more."""
        self._under_way[name] -= 1

    def retry_after_s(self) -> int:
        """When to come again: those who are refused together are told different seconds, in turn."""
        self._refusals += 1
        return 1 + self._refusals % RETRY_AFTER_MAX_S

    def gauges(self) -> dict[str, float]:
        """How much is under way."""
        return {"holdfast_in_flight": sum(self._under_way.values())}
