"""Runs work that would block the event loop in a small pool of threads, and ends tasks.

A call into C code that holds the interpreter lock (GIL) blocks all threads, also from a pool: such a call
must be short, or be divided into several.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

SMALL = 64 * 1024  # bytes, or work that takes as long: done on the event loop
NUM_THREADS = max(2, min(4, os.cpu_count() or 2))

_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)  # of the running work


class Unwanted(Exception):
    """The caller of this work was cancelled, so its result is not needed."""


async def aside(size: int, work: Callable[[], T]) -> T:
    """Return the result of `work`: run it here if `size` is at most SMALL, else in a thread, in order of
    arrival.

    If the caller is cancelled, queued work is dropped, and running work ends at its next call of
    `check_wanted`. Work that never calls it runs to its end.
    """
    if size <= SMALL:
        return work()
    cancelled = threading.Event()
    context = contextvars.copy_context()
    context.run(_cancelled.set, cancelled)
    try:
        return await asyncio.get_running_loop().run_in_executor(_pool(), context.run, work)
    except asyncio.CancelledError:
        cancelled.set()
        raise


def check_wanted() -> None:
    """Raise Unwanted if the caller was cancelled. Long work calls this now and then."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise Unwanted


def while_wanted(items: Iterable[T]) -> Iterator[T]:
    """The items, with a call of `check_wanted` before each."""
    for item in items:
        check_wanted()
        yield item


async def cancel_and_wait(task: asyncio.Future[Any] | None) -> None:
    """Cancel a task, if there is one, and wait for its end, whatever it ends with."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the body, and end it with the body."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        await cancel_and_wait(task)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="aside")
