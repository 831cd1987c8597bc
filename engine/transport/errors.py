"""What can go wrong between this process and Redis.

::

    TransportError
    ├── NotSent          it certainly did not run: no connection, queue full, every server redirected it; safe to repeat
    └── OutcomeUnknown   it was sent and no reply came: it may have run, or not; never repeat it blindly

A server's own refusal is none of these: it is raised as it came, as a ``redis.exceptions.ResponseError``.
"""


class TransportError(Exception):
    """The server's answer to a command did not arrive."""


class NotSent(TransportError):
    """The command was certainly not executed."""


class OutcomeUnknown(TransportError):
    """The command was sent, and whether it was executed is not known."""
