"""Work that would hold up the event loop, in a small pool of threads.

A call into C code that keeps the interpreter lock (GIL) stops every thread, also from here: such a call has
to be short by itself, or be cut into several.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

T = TypeVar("T")

SMALL = 64 * 1024  # bytes, or as much work as for so many: what is no larger is done on the event loop
NUM_THREADS = max(2, min(4, os.cpu_count() or 2))

_given_up: ContextVar[threading.Event | None] = ContextVar("given_up", default=None)  # of the work that runs


class Unwanted(Exception):
    """Nobody waits for the result of this work any more."""


async def aside(size: int, work: Callable[[], T]) -> T:
    """The result of `work`, which runs here if it is SMALL, else in a thread, in order of arrival.

    When the caller is cancelled, work that has not begun never does, and work that runs ends where it next
    calls `check_wanted`. Work that never calls it goes on to its end, and nobody gets its result.
    """
    if size <= SMALL:
        return work()
    given_up = threading.Event()
    context = contextvars.copy_context()
    context.run(_given_up.set, given_up)
    try:
        return await asyncio.get_running_loop().run_in_executor(_pool(), context.run, work)
    except asyncio.CancelledError:
        given_up.set()
        raise


def check_wanted() -> None:
    """To be called now and then by long work. Raises Unwanted when its caller has given it up."""
    given_up = _given_up.get()
    if given_up is not None and given_up.is_set():
        raise Unwanted


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="aside")
