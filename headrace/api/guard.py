"""The guard in front of the handlers: every request comes from a permitted host and site, takes its turn, and
has a charge for the memory of its body.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from headrace.api.errors import refusal
from headrace.api.memory import CHARGE, Budget, Charge
from headrace.api.sites import Sites

AT_ONCE = 4  # requests that start in one turn of the event loop
PROBES = frozenset(("/health", "/healthz", "/ready"))


class Turns:
    """Lets `at_once` callers pass in each turn of the event loop, in order of arrival.

    The start of a request (reading and checking its body, writing its prompt) takes a millisecond or two of
    the event loop. If five hundred requests that arrive together all started in one turn of the loop, then
    running streams and health checks would stand still for a second.
    """

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
        """Begin a new turn of the loop; the turns end after one in which no caller passed."""
        self._passed = 0
        while self._waiting and self._passed < self._at_once:
            turn = self._waiting.popleft()
            if not turn.done():  # a caller that left has cancelled it
                turn.set_result(None)
                self._passed += 1
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next)


class Guard:
    """ASGI middleware. A WebSocket is only checked for its host and site; probes do not take turns."""

    def __init__(self, app: ASGIApp, *, sites: Sites, budget: Budget) -> None:
        self.app, self._sites, self._budget = app, sites, budget
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        error = self._sites.refusal(scope) if kind in ("http", "websocket") else None
        if error is not None and kind == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(refusal(error, scope))
        elif error is not None:
            await refusal(error, scope)(scope, receive, send)
        elif kind != "http":
            await self.app(scope, receive, send)
        else:
            if scope["path"] not in PROBES:
                await self._turns.wait()
            charge = scope[CHARGE] = Charge(self._budget)
            try:
                await self.app(scope, receive, send)
            finally:
                charge.release()
                self._budget.trim_later()
