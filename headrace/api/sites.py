"""Protection from web pages of other sites.

Requests whose `Host` is not a name of this server are refused. That stops DNS rebinding: a page of
`http://evil.example`, whose name is made to point at this machine, is of the same site as far as the browser
can tell, but its requests carry `Host: evil.example`.

Requests that may change something, and WebSockets, are refused when a browser says that a page of another
site sent them. Browsers send such requests even when the page may not read the answer. Other programs send no
`Origin`, and are not affected.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from starlette.types import Scope

from headrace.api.authentication import first_headers
from headrace.errors import BadRequest, Forbidden

AUTHORITY = re.compile(r"(\[[0-9a-f:.]+(?:%[\w.~%-]+)?\]|[a-z0-9._-]+)(?::(\d{0,5}))?", re.ASCII)
BROWSERS = frozenset((b"origin", b"sec-fetch-site"))  # headers that only browsers send
UNCHANGING = ("GET", "HEAD", "OPTIONS")
DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}
MAX_KNOWN = 1000  # hosts that were checked and are remembered
SHOWN = 100  # characters of a header that an error repeats

LOOPBACK_NAMES = ("localhost", "host.docker.internal", "host.containers.internal")
# Nobody can register these in the public DNS, so no page of another site can be served under them.
PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa")


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names of this server. `bound`: the address that it listens on, as configured; `allowed`:
    server.allowed_hosts; `has_keys`: whether callers need an API key.
    """

    bound: str = "127.0.0.1"
    allowed: Sequence[str] = ()
    has_keys: bool = False
    _own_name: str = field(default_factory=lambda: socket.gethostname().lower(), init=False)

    @property
    def _is_local(self) -> bool:
        address = _address(self.bound)
        return self.bound == "localhost" or (address is not None and address.is_loopback)

    def has(self, host: str, local_address: str | None) -> bool:
        """Whether `host` (lower case, without a port) is a name of this server. `local_address`: the address
        of this server's end of the connection.
        """
        if host in (self.bound.lower(), *LOOPBACK_NAMES) or host.endswith(".localhost"):
            return True  # the usual case comes first
        address = _address(host)
        if any(_matches(host, address, pattern) for pattern in self.allowed):
            return True
        if address is not None and (address.is_loopback or address == _address(local_address or "")):
            return True
        return not self._is_local and self._is_remote_name(host, address)

    def _is_remote_name(self, host: str, address: IPv4Address | IPv6Address | None) -> bool:
        """Whether `host` may be a name of a server that other machines can reach: such a server does not know
        the names that proxies and containers give it.
        """
        if self.has_keys and not self.allowed:
            return True  # a page of another site has no key
        is_private = "." not in host or host.endswith(PRIVATE_SUFFIXES)
        return address is not None or is_private or host == self._own_name


@dataclass(frozen=True, slots=True)
class Sites:
    """The hosts and the web sites that requests may come from. `origins`: server.cors_origins."""

    hosts: Hosts
    origins: Sequence[str] = ()
    # (Host, address of our end) that were found to be right: nearly all requests have the same
    _known: set[tuple[bytes | None, str | None]] = field(default_factory=set, init=False)

    def refusal(self, scope: Scope) -> BadRequest | Forbidden | None:
        """The error for a request from elsewhere, or None.

        It is 403 for a `Host` that is not a name of this server, 400 for a missing one, or for several.
        HTTP/1.0 knows no `Host` and may leave it out: browsers do not speak it. It is 403 as well for
        WebSockets, and for requests that may change something, from pages of other sites.
        """
        headers, server = first_headers(scope), scope.get("server")
        is_plain = len(headers) == len(scope["headers"]) and headers.keys().isdisjoint(BROWSERS)
        if is_plain and (headers.get(b"host"), server and server[0]) in self._known:
            return None  # nearly all requests
        hosts: list[str] = []
        origins: list[str] = []
        fetched_by: list[str] = []
        values = {b"host": hosts, b"origin": origins, b"sec-fetch-site": fetched_by}
        for name, value in scope["headers"]:
            if name in values:
                values[name].append(value.decode("latin-1"))
        local_address = server[0] if server else None
        if (error := self._host_refusal(scope, hosts, local_address)) is not None:
            return error
        if hosts and len(hosts[0]) <= SHOWN and len(self._known) < MAX_KNOWN:
            self._known.add((headers[b"host"], local_address))  # not a missing one: see above
        if (origins or fetched_by) and (scope["type"] == "websocket" or scope["method"] not in UNCHANGING):
            return self._origin_refusal(hosts, origins, fetched_by)
        return None

    def _host_refusal(
        self, scope: Scope, hosts: Sequence[str], local_address: str | None
    ) -> BadRequest | Forbidden | None:
        if not hosts and scope["http_version"] == "1.0":
            return None
        if len(hosts) != 1:
            return BadRequest("a request has exactly one Host header", param="Host")
        host, _ = authority(hosts[0])
        if host is None:
            return BadRequest(f"Host is {hosts[0][:SHOWN]!r}: that is no host and port", param="Host")
        return None if self.hosts.has(host, local_address) else _host_not_allowed(host)

    def _origin_refusal(
        self, hosts: Sequence[str], origins: Sequence[str], fetched_by: Sequence[str]
    ) -> Forbidden | None:
        """The error if a browser sent the request for a page of another site."""
        if "*" in self.origins or (len(origins) == 1 and origins[0] in self.origins):
            return None
        is_other = any(site not in ("same-origin", "none") for site in fetched_by)
        if is_other or any(not _is_same(origin, hosts) for origin in origins):
            return _origin_not_allowed(origins)
        return None


def _host_not_allowed(host: str) -> Forbidden:
    return Forbidden(
        f"Host is {host[:SHOWN]!r}, which is not a name of this server. If it should be one, add it to "
        "server.allowed_hosts.",
        param="Host",
        code="host_not_allowed",
    )


def _origin_not_allowed(origins: Sequence[str]) -> Forbidden:
    who = f"Origin is {', '.join(origins)[:SHOWN]!r}" if origins else "a page of another site sent this"
    return Forbidden(
        f"{who}: pages of other sites may not do this. If this one should, add its origin to "
        "server.cors_origins.",
        param="Origin",
        code="origin_not_allowed",
    )


def authority(value: str) -> tuple[str | None, str]:
    """Split `HOST[:PORT]` into host and port. The host is in lower case, without the brackets of an IPv6
    address or a name's final dot, and None if it is not valid; the port is "" if there is none.
    """
    match = AUTHORITY.fullmatch(value.strip(" \t").lower())
    if match is None or int(match[2] or 0) > 65535:
        return None, ""
    host = match[1]
    if host.startswith("["):
        host = host[1:-1].partition("%")[0]
        return (host if _address(host) is not None else None), match[2] or ""
    return host.removesuffix(".") or None, match[2] or ""


def _is_same(origin: str, hosts: Sequence[str]) -> bool:
    """Whether the page came from this server. The scheme may differ, because a proxy may terminate TLS."""
    try:
        parts: SplitResult = urlsplit(origin)
    except ValueError:
        return False
    default = DEFAULT_PORTS.get(parts.scheme)
    if default is None or len(hosts) != 1 or parts.path or parts.query or parts.fragment:
        return False
    host, port = authority(parts.netloc)
    own_host, own_port = authority(hosts[0])
    return host is not None and (host, port or default) == (own_host, own_port or default)


def _matches(host: str, address: IPv4Address | IPv6Address | None, pattern: str) -> bool:
    """Whether a pattern of server.allowed_hosts covers a host; `*.example.com` covers every name under it."""
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in ("*", host) or (address is not None and address == _address(pattern))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def both_families(networks: Iterable[str]) -> list[str]:
    """The networks, and how an IPv6 socket that also takes IPv4 writes them: `10.0.0.0/8` is
    `::ffff:10.0.0.0/104`, too.
    """
    names = []
    for text in networks:
        network = ip_network(text)
        names.append(str(network))
        if isinstance(network, IPv4Network):
            names.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return names
