"""Why the demo could not go on; not what it found."""


class DemoFailed(Exception):
    """Something the demo needs did not work; the message says what."""
