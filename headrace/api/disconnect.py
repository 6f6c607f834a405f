"""Noticing that a caller has hung up. Nothing does it by itself while an answer is computed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from headrace.errors import ClientGone, ServerError
from headrace.gateway.race import Until


@asynccontextmanager
async def connected(receive: Receive, *ends: asyncio.Future[ServerError]) -> AsyncIterator[None]:
    """Runs the body while the caller is there, and until one of `ends` is done. Otherwise the body is
    cancelled, and ClientGone or the error of that future is raised.
    """
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        async with Until(*ends, gone):
            yield
    finally:
        gone.cancel()


async def _hung_up(receive: Receive) -> ServerError:
    while (await receive())["type"] != "http.disconnect":
        pass
    return ClientGone("the client closed the connection")
