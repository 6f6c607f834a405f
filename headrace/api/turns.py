"""Requests that arrive together begin a few at a time.

What a request costs at its beginning (reading and checking its body, writing its prompt) is a millisecond or
two of the event loop. When five hundred arrive at once, all of them would begin in one turn of the loop, and
everybody else, answers on their way and health checks, would wait for a second. So only so many begin in a
turn; the others follow in order, and what else is ready runs in between.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

AT_ONCE = 4
PROBES = frozenset(("/health", "/healthz", "/ready"))


class Turns:
    """Lets `at_once` callers pass in each turn of the event loop, in order of arrival."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once, self._passed = at_once, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting or self._passed >= self._at_once:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn
            return
        self._passed += 1
        if self._passed == 1:
            loop.call_soon(self._next)

    def _next(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._at_once:
            turn = self._waiting.popleft()
            if not turn.done():  # its caller may have left
                turn.set_result(None)
                self._passed += 1
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next)


class InTurn:
    """ASGI middleware: each HTTP request but a probe waits for its turn."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self._turns = app, Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES:
            await self._turns.wait()
        await self.app(scope, receive, send)
