"""Detects that a caller has hung up. A server that only computes an answer does not notice that by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from headrace.errors import ClientGone, ServerError
from headrace.gateway.race import Until


@asynccontextmanager
async def connected(receive: Receive, *ends: asyncio.Future[ServerError]) -> AsyncIterator[None]:
    """Runs the body until it ends, the caller hangs up, or one of `ends` is done. In the last two cases the
    body is cancelled, and ClientGone or the error in that future is raised.
    """
    hang_up = asyncio.ensure_future(_hang_up(receive))
    try:
        async with Until(*ends, hang_up):
            yield
    finally:
        hang_up.cancel()


async def _hang_up(receive: Receive) -> ServerError:
    """Wait until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return ClientGone("the client closed the connection")
