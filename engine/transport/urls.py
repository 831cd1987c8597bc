"""Redis URLs: what they mean, and which part of a bad one is wrong; never repeated in errors, they hold passwords."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS

from engine.transport.servers import NodeAddress

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379


class ServerTarget(msgspec.Struct, frozen=True):
    """``redis://``, ``rediss://`` or ``unix://``: one server, always at the same address."""

    node: NodeAddress
    tls: bool
    options: Mapping[str, Any]


class SentinelTarget(msgspec.Struct, frozen=True):
    """``redis+sentinel://``: the master of *service*, wherever its sentinels say it is."""

    sentinels: tuple[NodeAddress, ...]
    service: str
    tls: bool
    options: Mapping[str, Any]
    sentinel_options: Mapping[str, Any]


class ClusterTarget(msgspec.Struct, frozen=True):
    """``redis+cluster://``: a Redis Cluster, found through any of its nodes."""

    seeds: tuple[NodeAddress, ...]
    tls: bool
    options: Mapping[str, Any]


Target = ServerTarget | SentinelTarget | ClusterTarget


def parse_url(url: str) -> Target:
    """Read a Redis URL.

    ==================================================================  ==========================================
    ``redis://[user:password@]host[:port][/db]``, ``rediss://…``        one server; ``rediss`` speaks TLS
    ``unix://[user:password@]/path/to/socket[?db=0]``                   one server on this machine
    ``redis+sentinel://[user:password@]host[:port],…/service[/db]``     a master followed through its sentinels
    ``redis+cluster://[user:password@]host[:port],…``                   a cluster
    ==================================================================  ==========================================

    ``rediss+sentinel`` and ``rediss+cluster`` speak TLS. User and password are those of the data servers; sentinels
    with a password of their own take ``?sentinel_username=…&sentinel_password=…``. Options are those of redis-py
    that concern a connection (``db``, ``username``, ``password``, ``socket_keepalive``, ``ssl_…``); time-outs and
    retries are the transport's business.

    Raises:
        ValueError: Some part is missing or wrong; the message names it.
    """
    parts = _split(url)
    options = _options(parts)
    tls = parts.scheme.startswith("rediss")
    if not tls and any(name.startswith("ssl_") for name in options):
        raise ValueError("Redis URL: ssl_… options need a scheme with TLS, such as rediss")
    match parts.scheme:
        case "unix":
            return _unix_target(parts, options)
        case "redis" | "rediss":
            _take_database(parts.path.strip("/"), options)
            nodes = _addresses(parts, DEFAULT_PORT)
            if len(nodes) != 1:
                raise ValueError(f"Redis URL: {parts.scheme}:// takes one host, not {len(nodes)}")
            return ServerTarget(node=nodes[0], tls=tls, options=options)
        case "redis+sentinel" | "rediss+sentinel":
            return _sentinel_target(parts, tls, options)
        case "redis+cluster" | "rediss+cluster":
            _take_database(parts.path.strip("/"), options)
            if options.get("db"):
                raise ValueError("Redis URL: a cluster has only the database 0")
            return ClusterTarget(seeds=_addresses(parts, DEFAULT_PORT), tls=tls, options=options)
        case _:
            raise ValueError(f"Redis URL: the scheme must be one of {', '.join(SCHEMES)}, not {parts.scheme!r}")


SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

# What a URL may set: who we are and how TLS is done. Anything else (retries, time-outs, pools, decoding) would change
# what the transport promises.
_OPTIONS = frozenset(
    {
        "db",
        "username",
        "password",
        "socket_keepalive",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_exclude_verify_flags",
        "ssl_include_verify_flags",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
    }
)
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})

# The standard library's splitter takes one host only, and refuses some lists of IPv6 addresses.
_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?")
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>[^:]*))?")


class _Parts(msgspec.Struct, frozen=True):
    scheme: str
    user_info: str
    hosts: str
    path: str
    query: str


def _split(url: str) -> _Parts:
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("Redis URL: it must look like redis://host:6379/0")
    user_info, _, hosts = match["authority"].rpartition("@")
    return _Parts(
        scheme=match["scheme"], user_info=user_info, hosts=hosts, path=match["path"], query=match["query"] or ""
    )


def _unix_target(parts: _Parts, options: dict[str, Any]) -> ServerTarget:
    if parts.hosts or not parts.path.strip("/"):
        raise ValueError("Redis URL: unix:// takes an absolute path, with three slashes: unix:///run/redis.sock")
    return ServerTarget(node=NodeAddress(host=unquote(parts.path), port=0), tls=False, options=options)


def _sentinel_target(parts: _Parts, tls: bool, options: dict[str, Any]) -> SentinelTarget:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("Redis URL: the name of the service is missing: redis+sentinel://host:26379/<service>")
    _take_database(database, options)
    # What concerns TLS holds for sentinels too; who we are and the database do not.
    sentinel_options = {name: value for name, value in options.items() if name.startswith(("ssl_", "socket_"))}
    for name in _SENTINEL_OPTIONS & options.keys():
        sentinel_options[name.removeprefix("sentinel_")] = options.pop(name)
    return SentinelTarget(
        sentinels=_addresses(parts, DEFAULT_SENTINEL_PORT),
        service=unquote(service),
        tls=tls,
        options=options,
        sentinel_options=sentinel_options,
    )


def _options(parts: _Parts) -> dict[str, Any]:
    allowed = _OPTIONS | (_SENTINEL_OPTIONS if parts.scheme.endswith("+sentinel") else frozenset())
    options: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in allowed:
            raise ValueError(f"Redis URL: the option {name!r} is not one of {', '.join(sorted(allowed))}")
        try:
            options[name] = URL_QUERY_ARGUMENT_PARSERS.get(name, str)(text)
        except (TypeError, ValueError):
            raise ValueError(f"Redis URL: the option {name!r} has a value that cannot be read") from None
    if options.get("db", 0) < 0:
        raise ValueError("Redis URL: the database (option 'db') must not be negative")
    user, colon, password = parts.user_info.partition(":")
    if user:
        options["username"] = unquote(user)
    if colon:
        options["password"] = unquote(password)
    return options


def _take_database(text: str, options: dict[str, Any]) -> None:
    if not text:
        return
    if not (text.isascii() and text.isdigit()):
        raise ValueError("Redis URL: the database (the path) must be a number")
    options.setdefault("db", int(text))  # the query wins over the path, as in redis-py


def _addresses(parts: _Parts, default_port: int) -> tuple[NodeAddress, ...]:
    return tuple(_address(host, default_port) for host in parts.hosts.split(","))


def _address(text: str, default_port: int) -> NodeAddress:
    if not text:
        raise ValueError("Redis URL: a host is missing")
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(f"Redis URL: {text!r} is no host[:port]")
    port = match["port"] or str(default_port)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"Redis URL: the port in {text!r} must be a number from 1 to 65535")
    return NodeAddress(host=match["ipv6"] or match["name"], port=int(port))
