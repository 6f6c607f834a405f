"""Noticing that a caller has hung up. Nothing does it by itself while a JSON answer is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from headrace.errors import ClientGone
from headrace.gateway.gateway import Generation

T = TypeVar("T")


async def while_connected(receive: Receive, generation: Generation | None, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Raises ClientGone when the caller left first, or the error that interrupted the
    generation, if it is for one: then the work is cancelled, and has ended.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up(receive))
    either: set[asyncio.Future[Any]] = {task, gone}
    if generation is not None:
        either.add(generation.interrupted)
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return await task
        if generation is not None and generation.interrupted.done():
            raise generation.interrupted.result()
        raise ClientGone("the client closed the connection")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
