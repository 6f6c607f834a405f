"""How much memory the bodies of requests in flight may take, and what is made of them. Beyond it a request is
refused with 503, and may come again.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.errors import Overloaded

FACTOR = 4  # bytes of memory for each byte of a body: as it came, as text, and as what is sent on
CONTAINER = 1024  # bytes for each JSON object or list, once it is parsed
CHARGE = "headrace.charge"  # where a request's scope has its own


class Budget:
    """`limit`: bytes; 0: none."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0


class Charge:
    """What one request takes of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._taken = budget, 0

    def take(self, size: int) -> None:
        """Raises Overloaded: then it takes nothing any more."""
        budget = self._budget
        if budget.limit and budget.used + size > budget.limit:
            self.release()
            raise Overloaded("the bodies of other requests take all memory there is for them")
        budget.used += size
        self._taken += size

    def release(self) -> None:
        """All of it. Idempotent."""
        self._budget.used -= self._taken
        self._taken = 0

    def moved(self) -> Charge:
        """One that has all of this, for what goes on after the request."""
        other = Charge(self._budget)
        other._taken, self._taken = self._taken, 0
        return other


class Charged:
    """ASGI middleware: each HTTP request has a charge, which is released however the request ends."""

    def __init__(self, app: ASGIApp, *, budget: Budget) -> None:
        self.app, self._budget = app, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        charge = scope[CHARGE] = Charge(self._budget)
        try:
            await self.app(scope, receive, send)
        finally:
            charge.release()
