"""The one race between work and whatever may end it early: its caller hangs up, its time limit passes, the
server shuts down.
"""

from __future__ import annotations

import asyncio

from headrace.errors import ServerError


class Interruption:
    """An early end of a request, set from outside, once, at any time. `error` is done when it is set."""

    def __init__(self) -> None:
        self.error: asyncio.Future[ServerError] = asyncio.get_running_loop().create_future()

    def interrupt(self, error: ServerError) -> None:
        """End the request with this error. The first error counts."""
        if not self.error.done():
            self.error.set_result(error)


class Until:
    """Runs the body of an `async with` until one of `ends` is done. The body is cancelled then, and when it
    has ended, the error in that future is raised; if several are done, that of the first one in `ends`.

    The body runs in the caller's own task, so nothing is left to be awaited or closed afterwards.
    """

    def __init__(self, *ends: asyncio.Future[ServerError]) -> None:
        self._ends = ends
        self._task: asyncio.Task[object] | None = None
        self._has_cancelled = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        for end in self._ends:
            end.add_done_callback(self._cancel)

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: object) -> None:
        for end in self._ends:
            end.remove_done_callback(self._cancel)
        # a callback that is already scheduled still runs: without a task it cancels nothing
        task, self._task = self._task, None
        if not self._has_cancelled or task is None:
            return
        # if the task was cancelled from elsewhere as well, it stays cancelled
        is_ours_alone = task.uncancel() == 0
        if is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise next(end.result() for end in self._ends if _has_come(end)) from exc

    def _cancel(self, end: asyncio.Future[ServerError]) -> None:
        if not self._has_cancelled and self._task is not None and _has_come(end):
            self._has_cancelled = True
            self._task.cancel()


def _has_come(end: asyncio.Future[ServerError]) -> bool:
    return end.done() and not end.cancelled()
