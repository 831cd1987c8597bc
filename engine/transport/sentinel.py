"""Finding the master of a service through its sentinels."""

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from engine.transport.connection import ConnectionSettings, ask_once, open_connection
from engine.transport.multiplexer import Dial
from engine.transport.servers import NodeAddress

SENTINEL_TIMEOUT_S = 0.4  # each; one that is down must not use up the time the others need


def dial_master(
    sentinels: tuple[NodeAddress, ...],
    service: str,
    *,
    sentinel_settings: ConnectionSettings,
    settings: ConnectionSettings,
) -> Dial:
    """Whoever the sentinels call the master of *service* just then; the one that answered is asked first next time."""
    in_order = list(sentinels)

    async def dial() -> tuple[NodeAddress, AbstractConnection]:
        problems = []
        for sentinel in tuple(in_order):
            try:
                node = await _ask_sentinel(sentinel, service, sentinel_settings)
            except (RedisError, OSError) as error:
                problems.append(f"{sentinel}: {error}")
                continue
            in_order.remove(sentinel)
            in_order.insert(0, sentinel)
            return node, await open_connection(node, settings)
        raise ConnectionError(f"no sentinel knows the master of {service!r} ({'; '.join(problems)})")

    return dial


async def _ask_sentinel(sentinel: NodeAddress, service: str, settings: ConnectionSettings) -> NodeAddress:
    answer = await ask_once(sentinel, settings, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
    if answer is None:
        raise ConnectionError(f"it watches no service {service!r}")
    host, port = answer
    return NodeAddress(host=host.decode(), port=int(port))
