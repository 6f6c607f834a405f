"""Detects requests that failed because a pooled connection had gone stale. A provider may close an idle
connection at any time; the client notices only after it has written the next request.
"""

from __future__ import annotations

from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

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
