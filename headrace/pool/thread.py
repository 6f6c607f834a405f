"""Runs long synchronous work, such as a download, in a thread of its own that does not keep the process
alive: the shared threads are waited for at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], name: str) -> T:
    """Return what `work` returns, or raise what it raises. It runs on if the caller is cancelled."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except BaseException as exc:
            _call(loop, done, exc, None)
        else:
            _call(loop, done, None, value)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done


def _call(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], error: BaseException | None, value: T | None
) -> None:
    def settle() -> None:
        if done.done():  # the caller was cancelled
            return
        if error is not None:
            done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            done.set_result(value)  # type: ignore[arg-type]  # there is a value, because there is no error

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
