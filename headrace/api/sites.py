"""Keeps web pages of other sites out.

`KnownHost` refuses requests whose `Host` is not a name of this server. That stops DNS rebinding: a page of
`http://evil.example`, whose name is made to point at this machine, is of the same site as far as the browser
can tell, but its requests carry `Host: evil.example`.

`KnownOrigin` refuses what could change something, and WebSockets, when a browser says that a page of another
site sent it. Browsers send these even where the page may not read the answer. Programs that are no browsers
send no `Origin`, and are not affected.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from headrace.api.errors import refusal
from headrace.errors import BadRequest, Forbidden

AUTHORITY = re.compile(r"(\[[0-9a-f:.]+(?:%[\w.~%-]+)?\]|[a-z0-9._-]+)(?::(\d{0,5}))?", re.ASCII)
UNCHANGING = ("GET", "HEAD", "OPTIONS")
DEFAULT_PORTS = {"http": "80", "ws": "80", "https": "443", "wss": "443"}
SHOWN = 100  # characters of what was sent that an error repeats

LOOPBACK_NAMES = ("localhost", "host.docker.internal", "host.containers.internal")
# Names that nobody can register in the public DNS, so that no stranger's page can be served under them.
PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa")


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names that this server answers to. `bound`: the address it listens on, as configured. `allowed`:
    server.allowed_hosts. `has_keys`: whether callers need a key.
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
        """Whether `host` (without a port, in lower case) is one of them. `local_address`: of this server's
        end of the connection.
        """
        if host in (self.bound.lower(), *LOOPBACK_NAMES) or host.endswith(".localhost"):
            return True  # mostly, and the quickest to find out
        address = _address(host)
        if any(_matches(host, address, pattern) for pattern in self.allowed):
            return True
        if address is not None and (address.is_loopback or address == _address(local_address or "")):
            return True
        return not self._is_local and self._is_remote_name(host, address)

    def _is_remote_name(self, host: str, address: IPv4Address | IPv6Address | None) -> bool:
        """Of a server that others can reach, whose names are not known here: a proxy's, a container's."""
        if self.has_keys and not self.allowed:
            return True  # a page of another site knows no key
        is_private = "." not in host or host.endswith(PRIVATE_SUFFIXES)
        return address is not None or is_private or host == self._own_name


class KnownHost:
    """ASGI middleware: 403 to any `Host` that is not a name of this server, 400 where it is missing, or there
    are several. HTTP/1.0, which knows no `Host`, may leave it out: browsers do not speak it.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._error(scope) if scope["type"] in ("http", "websocket") else None
        await (self.app(scope, receive, send) if error is None else _refuse(error, scope, receive, send))

    def _error(self, scope: Scope) -> BadRequest | Forbidden | None:
        given = _values(scope, b"host")
        if not given and scope["http_version"] == "1.0":
            return None
        if len(given) != 1:
            return BadRequest("a request has exactly one Host header", param="Host")
        host, _ = authority(given[0])
        if host is None:
            return BadRequest(f"Host is {given[0][:SHOWN]!r}: that is no host and port", param="Host")
        server = scope.get("server")
        if self._hosts.has(host, server[0] if server else None):
            return None
        error = Forbidden(
            f"Host is {host[:SHOWN]!r}, which is not a name of this server. If it should be one, add it to "
            "server.allowed_hosts.",
            param="Host",
        )
        error.code = "host_not_allowed"
        return error


class KnownOrigin:
    """ASGI middleware: 403 to WebSockets, and to requests that may change something, from pages of other
    sites. `origins`: server.cors_origins, whose pages may.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_foreign(scope):
            await _refuse(self._error(scope), scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        if scope["type"] == "http":
            if scope["method"] in UNCHANGING:
                return False
        elif scope["type"] != "websocket":
            return False
        if "*" in self._origins:
            return False
        origins = _values(scope, b"origin")
        if len(origins) == 1 and origins[0] in self._origins:
            return False
        if any(site not in ("same-origin", "none") for site in _values(scope, b"sec-fetch-site")):
            return True
        return any(not _is_same(origin, scope) for origin in origins)

    def _error(self, scope: Scope) -> Forbidden:
        origins = _values(scope, b"origin")
        who = f"Origin is {', '.join(origins)[:SHOWN]!r}" if origins else "a page of another site sent this"
        error = Forbidden(
            f"{who}: pages of other sites may not do this. If this one should, add its origin to "
            "server.cors_origins.",
            param="Origin",
        )
        error.code = "origin_not_allowed"
        return error


def authority(value: str) -> tuple[str | None, str]:
    """Host and port of `HOST[:PORT]`: lower case, without an IPv6 address's brackets, without the dot that
    may end a name. The host is None where it is none; the port is "" where there is none.
    """
    found = AUTHORITY.fullmatch(value.strip(" \t").lower())
    if found is None or int(found[2] or 0) > 65535:
        return None, ""
    host = found[1]
    if host.startswith("["):
        host = host[1:-1].partition("%")[0]
        return (host if _address(host) is not None else None), found[2] or ""
    return host.removesuffix(".") or None, found[2] or ""


def _is_same(origin: str, scope: Scope) -> bool:
    """Whether the page came from this server. The scheme may differ: a proxy may speak TLS for us."""
    try:
        parts: SplitResult = urlsplit(origin)
    except ValueError:
        return False
    default = DEFAULT_PORTS.get(parts.scheme)
    hosts = _values(scope, b"host")
    if default is None or len(hosts) != 1 or parts.path or parts.query or parts.fragment:
        return False
    host, port = authority(parts.netloc)
    own_host, own_port = authority(hosts[0])
    return host is not None and (host, port or default) == (own_host, own_port or default)


def _matches(host: str, address: IPv4Address | IPv6Address | None, pattern: str) -> bool:
    """`*.example.com` stands for every name under example.com."""
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


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


async def _refuse(error: BadRequest | Forbidden, scope: Scope, receive: Receive, send: Send) -> None:
    response = refusal(error, scope)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)
