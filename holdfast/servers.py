"""The servers a command works with: the configured ones, or embedded ones that it starts, or finds running."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from holdfast.embedded.servers import EmbeddedServers, embedded_servers, running_servers
from holdfast.settings import Settings


@asynccontextmanager
async def own_servers(settings: Settings) -> AsyncIterator[Settings]:
    """Settings with both URLs filled in: embedded servers run, and are this process's, where one is absent.

    Raises:
        DataDirBusy: Another process runs servers under this data directory.
        ServerFailed: A server does not start; carries the end of its log.
    """
    async with AsyncExitStack() as stack:
        if settings.redis_url is None or settings.database_url is None:
            yield _filled(settings, await stack.enter_async_context(embedded_servers(settings.data_dir)))
        else:
            yield settings


@asynccontextmanager
async def any_servers(settings: Settings) -> AsyncIterator[Settings]:
    """The same for a short command: servers that ``holdfast serve`` runs under this data directory will do."""
    running = None
    if settings.redis_url is None or settings.database_url is None:
        running = running_servers(settings.data_dir)
    if running is not None:
        yield _filled(settings, running)
        return
    async with own_servers(settings) as filled:
        yield filled


def _filled(settings: Settings, servers: EmbeddedServers) -> Settings:
    return msgspec.structs.replace(
        settings,
        redis_url=settings.redis_url or servers.redis_url,
        database_url=settings.database_url or servers.database_url,
    )
