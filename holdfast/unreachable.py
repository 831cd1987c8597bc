"""What is said of a server that cannot be reached: which one, by the setting that says where it is."""

import os

from engine.errors import LedgerUnavailable, StoreUnavailable
from engine.transport.errors import TransportError


def unreachable_in_words(error: Exception) -> str | None:
    """Name the server that *error* is about; ``None`` when it is about none, or one that did answer."""
    match error:
        case LedgerUnavailable(__cause__=Exception()):
            return f"{_server('Postgres', 'DATABASE_URL')} cannot be used: {error}"
        case StoreUnavailable(__cause__=Exception()) | TransportError():
            return f"{_server('Redis', 'REDIS_URL')} cannot be used: {error}"
        case _:
            return None


def _server(name: str, variable: str) -> str:
    """A server and the variable that says where it is, never what it says: there is a password in it."""
    given = next((each for each in (variable, f"{variable}_FILE") if os.environ.get(each)), None)
    return f"{name} ({given})" if given else f"the embedded {name}"
