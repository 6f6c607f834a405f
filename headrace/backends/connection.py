"""Opens the connections to a provider, and detects requests that failed because a pooled one had gone stale:
a provider may close an idle connection at any time, and the client notices only after the next request.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from headrace.config import is_loopback

CONNECT_S = 5.0
MAX_HEADERS = 1000  # of an answer
MAX_FIELD = 2**16  # bytes of one header of an answer; some proxies set long cookies and policies
ANSWERED = WeakSet[ResponseHandler]()  # connections that have carried an answer


class StaleConnection(aiohttp.ClientConnectionError):
    """A reused connection closed before the first byte of the answer."""


class Response(aiohttp.ClientResponse):
    """Raises StaleConnection where aiohttp does not distinguish new from reused connections."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        assert protocol is not None, "aiohttp detaches the connection only after the answer has begun"
        try:
            started = await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if protocol in ANSWERED and not _has_begun(exc):
                raise StaleConnection from exc
            raise
        ANSWERED.add(protocol)
        return started


def _has_begun(failure: aiohttp.ClientConnectionError) -> bool:
    """Whether a part of the answer's head arrived."""
    return isinstance(failure, aiohttp.ServerDisconnectedError) and not isinstance(failure.message, str)


def open_session(
    base_url: str, headers: Mapping[str, str], timeout_s: float, *, force_close: bool
) -> aiohttp.ClientSession:
    """`timeout_s`: for the next bytes of an answer. `force_close`: each request has a new connection."""
    # Not trust_env: it reads ~/.netrc in a thread before every request, and rejects requests with an
    # Authorization header when .netrc has an entry for the host.
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=timeout_s),
        auto_decompress=False,  # the caller decompresses, with limits
        max_field_size=MAX_FIELD,
        max_line_size=MAX_FIELD,
        max_headers=MAX_HEADERS,
        connector=aiohttp.TCPConnector(limit=0, force_close=force_close),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=_proxy(base_url),
        response_class=Response,
    )


def _proxy(url: str) -> URL | None:
    """The proxy that the environment (HTTPS_PROXY, NO_PROXY, …) sets for a URL; None for this machine."""
    parts = urlsplit(url)
    is_direct = is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc)
    proxy = None if is_direct else getproxies().get(parts.scheme)
    return URL(proxy) if proxy else None
