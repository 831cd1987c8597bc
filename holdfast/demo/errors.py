"""Why the demo could not go on; not what it found."""

from engine.errors import HoldfastError


class DemoFailed(HoldfastError):
    """Something the demo needs did not work; the message says what."""
