"""The one race between work and whatever may end it early: its caller hangs up, its time limit passes, the
server shuts down.
"""

from __future__ import annotations

import asyncio
from operator import itemgetter

from headrace.errors import ServerError, TimedOut


class Interruption:
    """An early end of a request, set from outside, once, at any time. `error` is done when it is set."""

    def __init__(self) -> None:
        self.error: asyncio.Future[ServerError] = asyncio.get_running_loop().create_future()

    def interrupt(self, error: ServerError) -> None:
        """End the request with this error. The first error counts."""
        if not self.error.done():
            self.error.set_result(error)

    def after(
        self, server_s: float, caller_s: float | None, *, passed_s: float = 0.0
    ) -> asyncio.TimerHandle | None:
        """End the request when the server's limit or the caller's `timeout`, whichever is shorter, is over;
        `passed_s` of it have passed already. 0 and None: no limit. Returns the timer, if one is running.
        """
        limits = [(server_s, None), (caller_s or 0, "timeout")]
        limit_s, param = min((pair for pair in limits if pair[0]), key=itemgetter(0), default=(0, None))
        if not limit_s:
            return None
        error = TimedOut(f"the request took longer than {limit_s:g} s", param=param)
        if passed_s >= limit_s:
            self.interrupt(error)
            return None
        return asyncio.get_running_loop().call_later(limit_s - passed_s, self.interrupt, error)


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
