"""What Holdfast needs of its Redis: looked at when a process starts, and by ``holdfast doctor``."""

from typing import Literal

import msgspec
from redis.exceptions import ResponseError

from engine.transport.errors import TransportError
from engine.transport.open import Transport
from engine.transport.servers import NodeAddress

REDIS_FLOOR = (7, 0)
VALKEY_FLOOR = (7, 2)
CLOCK_SKEW_MAX_MS = 1_000


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; ``remedy`` says what to do unless the verdict is ``ok``."""

    subject: str
    verdict: Literal["ok", "warning", "failure"]
    detail: str
    remedy: str | None = None


class UnfitStore(Exception):
    """The Redis at hand would lose or corrupt places: the process must not start."""


async def require_fit_store(transport: Transport) -> None:
    """Look at every master that answers: of a cluster, one that is down keeps nobody from serving the others' events.

    Raises:
        UnfitStore: A server is too old, or evicts keys when its memory is short.
        NotSent, OutcomeUnknown: None of them answers.
    """
    findings, silent = list[Finding](), list[TransportError]()
    nodes = transport.nodes()
    for node in nodes:
        try:
            findings += await examine_node(transport, node)
        except TransportError as error:
            silent.append(error)
    if silent and len(silent) == len(nodes):
        raise silent[0]
    failures = [f for f in findings if f.verdict == "failure"]
    if failures:
        raise UnfitStore("; ".join(f"{f.subject}: {f.detail}. {f.remedy}" for f in failures))


async def examine_store(transport: Transport) -> list[Finding]:
    """Version, eviction policy and persistence of every master known."""
    return [finding for node in transport.nodes() for finding in await examine_node(transport, node)]


async def examine_node(transport: Transport, node: NodeAddress) -> list[Finding]:
    """The same of one master."""
    info = parse_info(await transport.command("INFO", "everything", node=node))
    return [_version(node, info), _policy(node, info), _persistence(node, info)]


def parse_info(reply: bytes) -> dict[str, str]:
    """The fields of a reply of INFO."""
    lines = (line.partition(":") for line in reply.decode().splitlines() if ":" in line)
    return {key: value for key, _, value in lines}


def _version(node: NodeAddress, info: dict[str, str]) -> Finding:
    is_valkey = "valkey_version" in info
    name, floor = ("Valkey", VALKEY_FLOOR) if is_valkey else ("Redis", REDIS_FLOOR)
    version = info["valkey_version" if is_valkey else "redis_version"]
    subject, detail = f"version of {node}", f"{name} {version}"
    if tuple(map(int, version.split(".")[:2])) < floor:
        return Finding(subject, "failure", detail, f"Use {name} {floor[0]}.{floor[1]} or newer")
    return Finding(subject, "ok", detail)


def _policy(node: NodeAddress, info: dict[str, str]) -> Finding:
    policy = info.get("maxmemory_policy", "noeviction")
    subject, detail = f"eviction of {node}", f"maxmemory-policy is {policy}"
    if policy != "noeviction":
        return Finding(subject, "failure", detail, "Set it to noeviction: any other forgets holds when memory is short")
    return Finding(subject, "ok", detail)


def _persistence(node: NodeAddress, info: dict[str, str]) -> Finding:
    subject = f"persistence of {node}"
    if info.get("aof_enabled") == "1":
        return Finding(subject, "ok", "the append-only file is on")
    remedy = "Set appendonly yes: without it, a restart of the server forgets holds and unconfirmed bookings"
    return Finding(subject, "warning", "the append-only file is off", remedy)


async def examine_clock(transport: Transport, now_ms: int) -> Finding:
    """Compare a server's clock, which decides deadlines, with this machine's at *now_ms*."""
    try:
        seconds, microseconds = await transport.command("TIME")
    except ResponseError as error:
        return Finding("clock", "failure", str(error), "Let the application's user run TIME")
    skew_ms = int(seconds) * 1000 + int(microseconds) // 1000 - now_ms
    detail = f"Redis's clock is {skew_ms:+d} ms from this machine's"
    if abs(skew_ms) > CLOCK_SKEW_MAX_MS:
        return Finding("clock", "warning", detail, "Run NTP on both: clients see deadlines by their own clocks")
    return Finding("clock", "ok", detail)
