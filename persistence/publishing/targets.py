"""Where webhooks may go: to public addresses, by HTTPS; whoever runs the installation may allow the others.

A name is resolved when a connection is made, every address it has is looked at, and the connection goes to the address
that was looked at. A name that answers otherwise the next time (DNS rebinding) is looked at again the next time.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import httpcore2

URL_MAX = 2_000  # characters; what browsers and proxies agree on
NAME_WAIT_S = 2.0  # for a name to be resolved, where nothing but a note depends on it
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TargetRefused(Exception):
    """A webhook must not go there; the message says why."""


def check_url(url: str, *, allow_private: bool) -> None:
    """Refuse what no webhook can be sent to, as far as can be told without asking for its addresses.

    Raises:
        TargetRefused: The URL is none, carries a password, or is not HTTPS while private targets are not allowed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TargetRefused(f"not a URL: {error}") from None
    if parts.scheme not in ("https", "http") or not host or port == 0 or len(url) > URL_MAX or not url.isascii():
        raise TargetRefused("a webhook's URL is https://host[:port]/path, in ASCII")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise TargetRefused("a webhook's URL has no user, password or fragment")
    if parts.scheme != "https" and not allow_private:
        raise TargetRefused("a webhook's URL begins with https:// (HOLDFAST_WEBHOOKS_ALLOW_PRIVATE=on allows http)")
    if not allow_private:
        try:
            literal = ipaddress.ip_address(host)
        except ValueError:
            return  # a name: its addresses are looked at when it is connected to
        require_public([literal])


def require_public(addresses: Iterable[Address]) -> None:
    """Look at all the addresses of a target.

    Raises:
        TargetRefused: One of them is not for everybody to reach: loopback, private, link-local, multicast and the like.
    """
    for address in addresses:
        if not _is_public(address):
            raise TargetRefused(f"{address} is not a public address (HOLDFAST_WEBHOOKS_ALLOW_PRIVATE=on allows it)")


async def why_private(url: str) -> str | None:
    """Why webhooks to *url* need private targets to be allowed; ``None`` where they do not, or nobody knows.

    Raises:
        TargetRefused: None can be sent there, whatever is allowed.
    """
    check_url(url, allow_private=True)
    parts = urlsplit(url)
    try:
        check_url(url, allow_private=False)
        async with asyncio.timeout(NAME_WAIT_S):
            require_public(await resolve(parts.hostname or "", parts.port or 443))
    except TargetRefused as error:
        return str(error)
    except (OSError, TimeoutError):
        return None  # what sends to it will say so
    return None


def _is_public(address: Address) -> bool:
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
    if inner is not None:
        return _is_public(inner)
    if isinstance(address, ipaddress.IPv6Address) and (address.is_reserved or address.is_site_local):
        return False  # `is_global` knows neither as private
    return address.is_global and not address.is_multicast


async def resolve(host: str, port: int) -> Sequence[Address]:
    """The addresses of a name, or the one that *host* spells out."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses that were looked at. TLS is spoken, and checked, for the name all the same."""

    def __init__(self, *, allow_private: bool) -> None:
        self._inner = httpcore2.AnyIOBackend()
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await resolve(host, port)
        except TimeoutError:
            raise httpcore2.ConnectTimeout("the name was not resolved in time") from None
        except OSError as error:
            raise httpcore2.ConnectError(f"the name cannot be resolved: {error}") from error
        if not self._allow_private:
            require_public(addresses)
        problem: Exception = httpcore2.ConnectError("the name has no address")
        for address in addresses[:2]:  # one of each family: the time-out is for each
            try:
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
