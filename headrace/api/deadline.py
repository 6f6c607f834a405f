"""The time limit of a request while it is prepared. From its start on, the gateway watches its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from headrace.api.disconnect import connected
from headrace.gateway.race import Interruption

READ_AT = "headrace.read_at"  # the key of the time at which the body was read, in a request's scope
TIMEOUT = "headrace.timeout_s"  # the key of the body's own limit, once the body is validated


@asynccontextmanager
async def in_time(request: Request) -> AsyncIterator[None]:
    """Run the body until it ends, the caller hangs up, or the server's or the caller's time limit has passed
    since the request was read. In the last two cases the body is cancelled. Raises ClientGone, TimedOut.
    """
    server_s = request.app.state.config.server.request_timeout_s
    now = asyncio.get_running_loop().time()
    interruption = Interruption()
    timer = interruption.after(
        server_s, request.scope.get(TIMEOUT), passed_s=now - request.scope.get(READ_AT, now)
    )
    if interruption.error.done():
        raise interruption.error.result()
    try:
        async with connected(request.receive, interruption.error):
            yield
    finally:
        if timer is not None:
            timer.cancel()
