"""What ``holdfast doctor`` asks of Redis beyond what a process must know to start: room, replicas, scripts, rights."""

from collections.abc import AsyncIterator, Mapping

from redis.exceptions import ResponseError

import lua
from engine.store_checks import Finding, parse_info
from engine.transport.open import Transport
from engine.transport.servers import NodeAddress

USED_MAX = 0.8  # of memory or connections: beyond it a rush has no room
_KEY = "hf:{0}:doctor:state"
# One call of every command that scripts and engine run, as ACL DRYRUN wants it: with the right number of arguments.
SAMPLE_CALLS = tuple(
    call.split()
    for call in (
        *("BITFIELD K SET u1 0 1", "BITFIELD_RO K GET u1 0", "BITPOS K 1", "DEL K", "EXISTS K", "EXPIRE K 1", "GET K"),
        *(
            "GETBIT K 0",
            "GETRANGE K 0 1",
            "HDEL K f",
            "HGET K f",
            "HGETALL K",
            "HINCRBY K f 1",
            "HLEN K",
            "HMGET K f",
            "HSCAN K 0",
        ),
        *("HVALS K",),
        *(
            "HSET K f v",
            "HSETNX K f v",
            "HVALS K",
            "MEMORY USAGE K",
            "PERSIST K",
            "RENAME K K",
            "SADD K m",
            "SET K v",
            "SETBIT K 0 1",
            "SETRANGE K 0 x",
        ),
        *("SREM K m", "SSCAN K 0", "UNLINK K", "XADD K * f v", "XDEL K 0-1", "XINFO STREAM K", "XLEN K"),
        *("XRANGE K - +", "XTRIM K MAXLEN 1", "ZADD K 1 m", "ZCARD K", "ZCOUNT K 0 1", "ZRANGE K 0 1"),
        *("ZRANGEBYSCORE K 0 1", "ZREM K m", "ZSCAN K 0", "ZSCORE K m", "ZMSCORE K m"),
        *("INFO", "TIME", "SCRIPT LOAD x", "SCRIPT EXISTS x", "EVALSHA x 1 K"),
    )
)


async def survey_store(transport: Transport) -> list[Finding]:
    """Look at every master."""
    findings: list[Finding] = []
    for node in transport.nodes():
        info = parse_info(await transport.command("INFO", "everything", node=node))
        findings += [_memory(node, info), _connections(node, info), await _replicas(transport, node, info)]
        if info.get("cluster_enabled") == "1":
            findings.append(await _coverage(transport, node))
        findings += [await _scripts(transport, node), await _rights(transport, node)]
    return findings


def _memory(node: NodeAddress, info: Mapping[str, str]) -> Finding:
    subject, used, limit = f"memory of {node}", int(info["used_memory"]), int(info["maxmemory"])
    if not limit:
        available = int(info.get("total_system_memory", "0"))
        detail = f"{_mb(used)} used, no limit; the machine has {_mb(available)}"
        remedy = (
            "Set maxmemory below what the machine has: with noeviction, scripts then refuse instead of being killed"
        )
        return (
            Finding(subject, "warning", detail, remedy)
            if used > USED_MAX * available
            else Finding(subject, "ok", detail)
        )
    detail = f"{_mb(used)} of {_mb(limit)} used"
    if used > USED_MAX * limit:
        return Finding(subject, "warning", detail, "Raise maxmemory: when it is used up, no new holds are taken")
    return Finding(subject, "ok", detail)


def _connections(node: NodeAddress, info: Mapping[str, str]) -> Finding:
    subject, used, limit = f"connections of {node}", int(info["connected_clients"]), int(info.get("maxclients", "0"))
    detail = f"{used} of {limit or 'an unknown number'} used"
    if limit and used > USED_MAX * limit:
        return Finding(subject, "warning", detail, "Raise maxclients: every process of Holdfast needs one")
    return Finding(subject, "ok", detail)


async def _replicas(transport: Transport, node: NodeAddress, info: Mapping[str, str]) -> Finding:
    subject, count = f"replicas of {node}", int(info.get("connected_slaves", "0"))
    if not count:
        return Finding(subject, "ok", "none: there is no failover")
    remedy = "Set min-replicas-to-write 1, so that a primary that was cut off stops taking holds"
    try:
        reply = await transport.command("CONFIG", "GET", "min-replicas-to-write", node=node)
    except ResponseError as error:
        return Finding(subject, "warning", f"{count}; whether they are waited for cannot be asked: {error}", remedy)
    needed = int(reply[1]) if len(reply) > 1 else 0
    detail = f"{count}, min-replicas-to-write is {needed}"
    return Finding(subject, "ok", detail) if needed else Finding(subject, "warning", detail, remedy)


async def _coverage(transport: Transport, node: NodeAddress) -> Finding:
    subject = f"coverage of {node}"
    remedy = "Set cluster-require-full-coverage no, so that a node that is down stops its own events and no others"
    try:
        reply = await transport.command("CONFIG", "GET", "cluster-require-full-coverage", node=node)
    except ResponseError as error:
        return Finding(subject, "warning", f"whether all slots must be served cannot be asked: {error}", remedy)
    value = reply[1].decode() if len(reply) > 1 else "unknown"
    detail = f"cluster-require-full-coverage is {value}"
    return Finding(subject, "ok", detail) if value == "no" else Finding(subject, "warning", detail, remedy)


async def _scripts(transport: Transport, node: NodeAddress) -> Finding:
    subject, names = f"scripts on {node}", lua.names()
    for name in names:
        try:
            await transport.command("SCRIPT", "LOAD", lua.load(name).source, node=node)
        except ResponseError as error:
            remedy = (
                "Let the application's user run SCRIPT LOAD; with a server that is new enough this is a bug of ours"
            )
            return Finding(subject, "failure", f"lua/{name}.lua cannot be loaded: {error}", remedy)
    return Finding(subject, "ok", f"all {len(names)} can be loaded")


async def _rights(transport: Transport, node: NodeAddress) -> Finding:
    """Ask for every command whether the user that we are may run it on a key of ours."""
    subject = f"rights on {node}"
    try:
        user = await transport.command("ACL", "WHOAMI", node=node)
        refused = [name async for name in _refused(transport, node, user)]
    except ResponseError as error:
        remedy = "Run doctor once as a user who may run ACL WHOAMI and ACL DRYRUN"
        return Finding(subject, "warning", f"what our user may do cannot be asked: {error}", remedy)
    if refused:
        detail = f"{user.decode()} may not run {', '.join(refused)} on {_KEY}"
        return Finding(subject, "failure", detail, "Grant what docs/operations.md lists for an application user")
    return Finding(subject, "ok", f"{user.decode()} may run what is needed")


async def _refused(transport: Transport, node: NodeAddress, user: bytes) -> AsyncIterator[str]:
    for call in SAMPLE_CALLS:
        words = [_KEY if word == "K" else word for word in call]
        if await transport.command("ACL", "DRYRUN", user, *words, node=node) != b"OK":
            yield call[0]


def _mb(count: int) -> str:
    return f"{count / 1_000_000:,.0f} MB"
