"""Noticing that a caller has hung up. Nothing does it by itself while a JSON answer is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from headrace.errors import ClientGone, ServerError
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


class Attended:
    """While inside, a caller who hangs up, or an interruption, ends the work: it is cancelled, and leaving
    raises ClientGone, or the error it was interrupted with. One task besides the work's own.
    """

    def __init__(self, receive: Receive, interrupted: asyncio.Future[ServerError]) -> None:
        self._receive, self._interrupted = receive, interrupted
        self._why: ServerError | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._gone = asyncio.ensure_future(hung_up(self._receive))
        self._gone.add_done_callback(self._end)
        self._interrupted.add_done_callback(self._end)

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: object) -> None:
        self._gone.remove_done_callback(self._end)
        self._interrupted.remove_done_callback(self._end)
        self._gone.cancel()
        if self._why is None or self._task is None:
            return
        is_ours_alone = self._task.uncancel() == 0
        if is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._why from exc

    def _end(self, _: object) -> None:
        if self._why is None and self._task is not None:
            gone = ClientGone("the client closed the connection")
            self._why = self._interrupted.result() if self._interrupted.done() else gone
            self._task.cancel()


async def hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
