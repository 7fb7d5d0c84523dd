"""Outbound URLs: which of the URLs that callers supply this cluster calls, and a transport that calls no other.

    https://host[:port]/...   host on the list, if there is one; every address of it public; port on the list
    http://localhost:port/... only where loopback is allowed, for tests and for demos on one machine

A caller who names a URL makes our process speak from inside our network. So a name is never enough: it is resolved, all
its addresses are checked, and the connection is made to an address that was checked. A name that resolves anew between
check and connection (DNS rebinding) gains nothing by it, and each request is checked again, also one that goes over a
connection that is there already. `httpx.URL` both reads the
URL that is checked and writes the request, so that no two parsers can disagree about the host.

Queries of URLs are credentials (presigned uploads), so they are shown nowhere: `redacted` is for logs, errors, replies.

Deliberately not here: redirects (the transport follows none, and `httpx` clients follow none unless told to) and
proxies (behind one, the address that is connected to is not ours to check; the environment's proxies are not used).
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, TypeAlias

import httpx

from core.connections import KeptConnections
from core.errors import UrlRefused

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host and port. Raises `OSError` if it has none."""

_PORTS: Final = {"https": 443, "http": 80}
_UNICAST: Final = IPv6Network("2000::/3")  # all that is globally routed (RFC 4291, 2.4)
_NAT64: Final = IPv6Network("64:ff9b::/96")  # an IPv4 address in the last 32 bits (RFC 6052)
_PLATFORM: Final = (
    IPv4Network("168.63.129.16/32"),  # Azure's host agent: metadata at a public address
    IPv4Network("192.0.0.0/24"),  # protocol assignments (RFC 6890), where Oracle's metadata is
)
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_HINT: Final = "Use an https URL of a public host that this cluster allows."


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """What may be called.

    Attributes:
        hosts: Names that may be called, such as `storage.example.com`, or `*.example.com` for all names below
            `example.com` but not itself. Empty: every public host.
        ports: Ports that may be called, loopback apart.
        loopback: Whether this machine may be called, by `http` too, as `localhost` or by address, at any port.
    """

    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = (443,)
    loopback: bool = False

    def check(self, url: str | httpx.URL) -> httpx.URL:
        """Reads a URL and checks all that can be seen without resolving its host.

        Raises:
            UrlRefused: It is no URL, or none that may be called.
        """
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            raise UrlRefused("The URL can not be read.", _HINT) from None
        host = parsed.raw_host.decode()
        local = self.loopback and _names_loopback(host)
        if parsed.scheme != "https" and not (local and parsed.scheme == "http"):
            raise UrlRefused(f"{redacted(parsed)} is not an https URL.", _HINT)
        address = _address(host)
        if address is None and not _NAME.fullmatch(host):
            raise UrlRefused("The URL has no host.", _HINT)
        if parsed.userinfo:
            raise UrlRefused(f"{redacted(parsed)} was given with a user or password.", "Leave them out.")
        if local:
            return parsed
        if self.hosts and not any(_matches(host, pattern) for pattern in self.hosts):
            raise UrlRefused(f"Host {host} is not one that this cluster calls.", _HINT)
        if _port(parsed) not in self.ports:
            raise UrlRefused(f"Port {_port(parsed)} of {host} is not one that this cluster calls.", _HINT)
        if address is not None and not is_public(address):
            raise UrlRefused(f"{host} is not a public host.", _HINT)
        return parsed

    async def addresses(self, url: str | httpx.URL, resolve: Resolve | None = None) -> Sequence[str]:
        """Resolves the host of a URL, after `check`, and checks its addresses.

        Raises:
            UrlRefused: It may not be called: one private address among public ones is enough.
            OSError: The host has no address.
        """
        parsed = self.check(url)
        host = parsed.raw_host.decode()
        found = await (resolve or resolve_host)(host, _port(parsed))
        if not found:
            raise OSError("no address")
        if self.loopback and _names_loopback(host):
            admitted = all(ip_address(address).is_loopback for address in found)
        else:
            admitted = all(is_public(ip_address(address)) for address in found)
        if not admitted:
            raise UrlRefused(f"{host} is not a public host.", _HINT)
        return found


class CheckedTransport(httpx.AsyncBaseTransport):
    """Sends requests to URLs that a policy admits, each over a connection to an address that was checked for it.

    Connections are kept for the next request to the same name, and used if the name still has their address.

    For `httpx.AsyncClient(transport=...)`, or used by itself where no log may show the URL: the client logs it whole.

    Args:
        policy: What may be called.
        resolve: Finds addresses; the operating system does by default.
        ssl_context: Trusts whom; public authorities by default.
    """

    def __init__(
        self, policy: UrlPolicy, *, resolve: Resolve | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._connections = KeptConnections(ssl_context or httpx.create_ssl_context())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; its `Host` header and the name in the server's certificate stay those of the URL.

        Raises:
            UrlRefused: The URL may not be called.
            httpx.TransportError: There was no connection, or it broke.
        """
        try:
            addresses = await self._policy.addresses(request.url, self._resolve)
        except OSError:
            raise httpx.ConnectError("the host could not be resolved") from None
        host = request.url.raw_host.decode()
        extensions: dict[str, Any] = {**request.extensions, "sni_hostname": host}
        pinned = [_pinned(request, address, extensions) for address in addresses]
        return await self._connections.send((request.url.scheme, host, _port(request.url)), pinned)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._connections.aclose()


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The addresses that the operating system knows, in its order of preference.

    Raises:
        OSError: There are none.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label too long for DNS
        raise OSError("no address") from None
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is a single machine of the public internet, and no cloud's metadata service."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        return address in _UNICAST and address.is_global and address.sixtofour is None
    return address.is_global and not address.is_multicast and not any(address in network for network in _PLATFORM)


def redacted(url: str | httpx.URL) -> str:
    """A URL as it may be shown: without user, query and fragment, which may be credentials."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except (httpx.InvalidURL, TypeError):
        return "an unreadable URL"


def _pinned(request: httpx.Request, address: str, extensions: dict[str, Any]) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )


def _matches(host: str, pattern: str) -> bool:
    host, pattern = host.rstrip("."), pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _names_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _port(url: httpx.URL) -> int:
    return url.port or _PORTS[url.scheme]
