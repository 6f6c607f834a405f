"""Work that would hold up the event loop, in a small pool of threads.

A call into C code that keeps the interpreter lock (GIL) stops every thread, also from here: such a call has
to be short by itself, or be cut into several.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")

SMALL = 64 * 1024  # bytes, or as much work as for so many: what is no larger is done on the event loop
NUM_THREADS = max(2, min(4, os.cpu_count() or 2))


async def aside(size: int, work: Callable[[], T]) -> T:
    """The result of `work`, which runs here if it is SMALL, else in a thread, in order of arrival.

    When the caller is cancelled, work that has not begun never does; work that runs goes on to its end, and
    nobody gets its result. Long work is therefore cut into steps, with one call for each of them.
    """
    if size <= SMALL:
        return work()
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_pool(), context.run, work)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="aside")
