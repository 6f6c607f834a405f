"""Whether a connection was kept from an earlier answer. A provider may have closed it meanwhile, and that
shows only when the next request has been written to it.
"""

from __future__ import annotations

from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

ANSWERED = WeakSet[ResponseHandler]()  # connections that have carried an answer


class KeptTooLong(aiohttp.ClientConnectionError):
    """A connection that had been kept ended before the first byte of the answer."""


class Response(aiohttp.ClientResponse):
    """Raises KeptTooLong instead of what aiohttp has for it."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        assert protocol is not None, "aiohttp gives a connection away when its answer has begun"
        try:
            started = await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if protocol in ANSWERED and not _has_begun(exc):
                raise KeptTooLong from exc
            raise
        ANSWERED.add(protocol)
        return started


def _has_begun(failure: aiohttp.ClientConnectionError) -> bool:
    """Whether a part of a head came."""
    return isinstance(failure, aiohttp.ServerDisconnectedError) and not isinstance(failure.message, str)
