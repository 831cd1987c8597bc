"""A route: one method of one URL, with all that is decided and documented about it."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from api.answers import Answer
from api.call import Call

BODY_MAX = 1 << 20  # the largest hold has 500 seats, about 20 kB
PLAN_BODY_MAX = 64 << 20  # a stadium of a million seats with their positions

Handler = Callable[[Call], Awaitable[Answer]]
Method = Literal["GET", "POST", "PATCH", "DELETE"]


class Reply(msgspec.Struct, frozen=True):
    """One way a route answers when all goes well; ``body`` is the type that msgspec encodes, if it is JSON."""

    status: int
    description: str
    body: Any = None
    media_type: str = "application/json"
    headers: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    ``roles`` may call it; none at all means that no token is asked for. Without a ``body`` it takes none, unless it
    ``takes_bytes``: its handler reads them as they came. ``refusals`` are the exceptions that make answers of their
    own, besides those which every route of its kind has. ``keeps_answers`` puts it behind
    :func:`api.idempotency.answer_once`; other routes hand their key to the engine. ``takes_tickets`` says that events
    may ask for one, in ``Holdfast-Admission``. ``bodies_repeat`` says that many callers send the same, in which there
    is nothing of anybody's own.
    ``notes`` are sentences for the document, behind the roles.
    """

    method: Method
    path: str
    handler: Handler
    summary: str
    tag: str
    replies: tuple[Reply, ...]
    roles: frozenset[str] = frozenset()
    body: Any = None
    body_required: bool = True
    body_max: int = BODY_MAX
    body_example: Any = None
    query: type[msgspec.Struct] | None = None
    refusals: tuple[type[Exception], ...] = ()
    keeps_answers: bool = False
    conditional: Literal["If-Match", "If-None-Match"] | None = None
    takes_tickets: bool = False
    bodies_repeat: bool = False
    takes_bytes: bool = False
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether it changes something, and so reads a body and takes an idempotency key."""
        return self.method != "GET"

    @property
    def param_names(self) -> tuple[str, ...]:
        """The names in the path's braces."""
        return tuple(segment[1:-1] for segment in self.path.split("/") if segment.startswith("{"))
