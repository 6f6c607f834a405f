"""Keeps one child process running: when it ends by itself, or hangs, it is started again, the first time at
once, then after pauses that grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from headrace.children.child import Child
from headrace.errors import HeadraceError
from headrace.offload import cancel_and_wait

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STABLE_S = 60.0  # one that ends after so long is started again at once
LOOK_S = 1.0  # how often a check looks whether the child hangs


class Running(Protocol):
    """A child that is ready."""

    @property
    def child(self) -> Child: ...


R = TypeVar("R", bound=Running)


class Keeper(Generic[R]):
    """`open` starts a child and waits until it is ready; `came` is called with each one that is ready, `left`
    with the reason for which it no longer is, and the seconds until it is started again. `hangs`: whether the
    running one has to be killed. `stop_s`: how long it may take to finish what it does when it is stopped.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], Awaitable[R]],
        *,
        came: Callable[[R], None],
        left: Callable[[str, float], None],
        hangs: Callable[[], bool] = lambda: False,
        stop_s: float = 30.0,
    ) -> None:
        self.name, self._open = name, open
        self._came, self._left, self._hangs, self._stop_s = came, left, hangs, stop_s
        self.running: R | None = None
        self._replaced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, first: R | None = None) -> None:
        """Keep one child running from now on. `first`: one that runs already, and was reported to `came`."""
        self.running = first
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop the child process, and no longer restart it."""
        await cancel_and_wait(self._task)
        if self.running is not None:
            await self.running.child.stop(self._stop_s)

    async def replace(self, retire: int) -> None:
        """Start another one. When it is ready, send the running one the signal `retire`, and wait for its
        end. Raises HeadraceError if the new one does not start; the old one then goes on.
        """
        new = await self._open()
        old, self.running = self.running, new
        self._came(new)
        self._replaced.set()
        if old is not None:
            old.child.signal(retire)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stop_s):
                    await old.child.wait()
            await old.child.kill()

    async def _run(self) -> None:
        pause_s = 0.0
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            try:
                if self.running is None:
                    await self._open_missing()
                assert self.running is not None
                why = await self._until_end(self.running.child)
            except HeadraceError as exc:
                why = exc.message
            if why is None:  # it was replaced
                continue
            self.running = None
            if loop.time() - since > STABLE_S:
                pause_s = 0.0
            log.error("%s; it is started again%s", why, f" in {pause_s:g} s" if pause_s else "")
            self._left(why, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)

    async def _open_missing(self) -> None:
        """Start one, unless `replace` has meanwhile."""
        opened = await self._open()
        if self.running is None:
            self.running = opened
            self._came(opened)
        else:
            await opened.child.kill()

    async def _until_end(self, child: Child) -> str | None:
        """Wait until the child ends, or hangs and is killed. Returns why; None: another took its place."""
        self._replaced.clear()
        waiting = [asyncio.ensure_future(child.wait()), asyncio.ensure_future(self._replaced.wait())]
        try:
            while not (await asyncio.wait(waiting, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED))[0]:
                if self._hangs():
                    await child.kill()
                    return f"{self.name} did not answer any more and was killed"
            if self._replaced.is_set():
                return None
            output = f": {await child.last_output()}" if child.is_quiet else ""
            return f"{self.name} ended (exit code {child.exit_code}){output}"
        finally:
            for task in waiting:
                task.cancel()
