"""The way to Redis, from settings: opened by every process, and tried once before ``serve`` starts any of them."""

import asyncio

from redis.exceptions import BusyLoadingError, ReadOnlyError

from engine.transport.errors import NotSent
from engine.transport.open import Transport, open_transport
from engine.transport.urls import ClusterTarget, SentinelTarget, ServerTarget, parse_url
from holdfast.settings import SettingsError

PATIENCE_S = 1.0  # as long as Postgres has to let us in; a restart of the server or of a sentinel goes unnoticed
PAUSE_S = 0.1


async def open_redis(url: str) -> Transport:
    """Connect to what *url*, a setting, names.

    Raises:
        SettingsError: The URL is wrong; the message names the part.
        NotSent: There is no usable server now.
    """
    try:
        return await open_transport(url)
    except ValueError as error:  # names the part of the URL that is wrong, and repeats no password
        raise SettingsError(f"REDIS_URL: {error}") from error


async def require_redis(url: str) -> None:
    """Return when *url* leads to a Redis, which may still be loading its data, or a replica that is to take over.

    For those whoever works with it tries again; an address that leads nowhere is a person's business, who is told of
    it once here rather than by every process that cannot do without.

    Raises:
        SettingsError: The URL is wrong; the message names the part.
        NotSent: Nobody answers there, or who does lets us not in; the message has the address and what to do.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_S
    while True:
        try:
            transport = await open_redis(url)
        except NotSent as error:
            if isinstance(error.__cause__, BusyLoadingError | ReadOnlyError):
                return
            if loop.time() > give_up_at:
                remedy = f"Start it, or change that setting: it leads to {_destination(url)}"
                raise NotSent(f"{error}\n{remedy}") from error.__cause__
            await asyncio.sleep(PAUSE_S)
        else:
            await transport.aclose()
            return


def _destination(url: str) -> str:
    """Where a URL leads, without the user, the password and the options that it may have."""
    match parse_url(url):
        case ServerTarget(node=node):
            return str(node)
        case SentinelTarget(sentinels=sentinels, service=service):
            return f"{service!r} by the sentinels {', '.join(map(str, sentinels))}"
        case ClusterTarget(seeds=seeds):
            return f"the cluster of {', '.join(map(str, seeds))}"
