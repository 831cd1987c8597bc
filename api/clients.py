"""Where a request comes from, and by which scheme, as far as it can be believed: the peer, or what proxies say.

Everybody can send ``X-Forwarded-For``. A proxy adds the address that it was called from at the end of it, so from the
right on every entry was written by the one named behind it, and is worth as much as that one.
"""

import functools
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands that only read settings need not wait for it
    from starlette.types import Scope

UNIX = "unix"  # every peer that comes through a unix socket
LOOPBACK = ("127.0.0.1", "::1")
ENTRY_MAX = 64  # bytes; an IPv6 address with a zone and a port has room in it
HOPS_MAX = 16  # proxies that a request may have come through
CLIENT_BITS_IPV6 = 64  # one client's network: it may use any address in it
REMEMBERED_MAX = 10_000  # addresses, some 200 bytes each

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Peer = Sequence[object] | None  # host and port; None of a unix socket


class Proxies:
    """The peers whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed, by network, or ``unix``.

    The scheme is believed of peers on this machine as well: it is only repeated to whoever asked.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        names = set(trusted)
        self._trusts_unix = UNIX in names
        self._networks = [ip_network(name) for name in names - {UNIX}]
        self._trusts_host = functools.lru_cache(maxsize=REMEMBERED_MAX)(self._is_trusted)

    def client_of(self, scope: "Scope") -> str:
        """The client, as requests are counted: an IPv4 address, a network of IPv6, or ``unix``.

        It is the entry that the last trusted proxy wrote; that proxy itself, where this says nothing that is an
        address.
        """
        host = _host(scope.get("client"))
        if self._trusts_host(host):
            host = self._named_by_proxies(host, scope["headers"])
        return _counted_as(host)

    def scheme_of(self, said: bytes, peer: Peer, ours: str) -> str:
        """As the client sees it: *said* by ``X-Forwarded-Proto`` where that is believed, the connection's otherwise."""
        if said in (b"http", b"https"):
            host = _host(peer)
            if host == UNIX or host in LOOPBACK or self._trusts_host(host):
                return said.decode("ascii")
        return ours

    def _named_by_proxies(self, host: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        rest = b",".join([value for name, value in headers if name == b"x-forwarded-for"])
        for _ in range(HOPS_MAX):
            rest, _, entry = rest.rpartition(b",")
            named = _entry_host(entry)
            if named is None:
                break
            host = named
            if not self._trusts_host(host):
                break
        return host

    def _is_trusted(self, host: str) -> bool:
        if host == UNIX:
            return self._trusts_unix
        address = _parse(host)
        return address is not None and any(address in network for network in self._networks)


def parse_proxies(text: str) -> tuple[str, ...]:
    """Networks, addresses and ``unix``, with commas between, in the form that :class:`Proxies` takes.

    Raises:
        ValueError: Something else is among them, or a network of everybody; the message says what is expected.
    """
    return tuple(dict.fromkeys(_parse_proxy(part.strip()) for part in text.split(",") if part.strip()))


def _parse_proxy(name: str) -> str:
    if name == UNIX:
        return name
    try:
        network = ip_network(name)
    except ValueError as error:
        raise ValueError(
            f"networks such as 10.0.0.0/8 or 2001:db8::/32, addresses, or unix, with commas between ({error})"
        ) from None
    if not network.prefixlen:
        raise ValueError(f"the networks of your proxies alone: of all in {name} anybody could name any client")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"networks of IPv4 as such, {network.network_address.ipv4_mapped} rather than {name}")
    return str(network)


def _host(peer: Peer) -> str:
    return UNIX if peer is None or not peer[0] else str(peer[0])


def _entry_host(entry: bytes) -> str | None:
    """The address in an entry of ``X-Forwarded-For``, perhaps with a port; ``None`` where there is none."""
    if len(entry) > ENTRY_MAX:
        return None
    text = entry.strip(b" \t").decode("latin-1")
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return None
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return None if _parse(text) is None else text


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def _parse(host: str) -> Address | None:
    """*host* as an address, one of IPv4 where IPv6 only wraps it."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without its zone
    return address


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def _counted_as(host: str) -> str:
    address = _parse(host)
    if isinstance(address, IPv6Address):
        bits = 128 - CLIENT_BITS_IPV6
        return f"{IPv6Address(int(address) >> bits << bits)}/{CLIENT_BITS_IPV6}"
    return host if address is None else str(address)
