"""What every request passes before it reaches a handler: it gets an id and a line in the access log, its host
and site are checked, it takes its turn, and the memory of its body is counted. Answers get headers for
browsers: which pages may read them (CORS), and how they may be used.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections import deque
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from headrace import logs
from headrace.api.errors import METHODS, refusal
from headrace.api.request import CHARGE, TRIM_AFTER, Budget, Charge
from headrace.api.sites import Sites
from headrace.callers import RATES
from headrace.errors import ServerError

log = logging.getLogger("headrace.access")

ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
CORRELATION_ID = b"x-correlation-id"
IDS = (b"x-request-id", CORRELATION_ID)  # that a caller may send; the first is the request's
VERSION = {b"openai-version": b"2020-10-01"}
AT_ONCE = 4  # requests that start in one turn of the event loop
PIECE = 256 * 1024  # bytes of an answer that are written in one turn of the event loop
PROBES = frozenset(("/health", "/healthz", "/ready"))
EXPOSED_HEADERS = (
    "x-request-id", "request-id", "x-correlation-id", "x-conversation-id", "x-headrace-attempts",
    "x-headrace-backend", "x-headrace-ignored", "x-headrace-persisted", "x-should-retry",
    "openai-processing-ms", "retry-after", "server-timing", "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens",
)  # fmt: skip
SECURITY = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app with CORS headers that let pages of these origins read its answers. With "*", every page may,
    but without cookies.
    """
    if not origins:
        return app
    is_named = "*" not in origins
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=["*"],
        allow_credentials=is_named,
        allow_private_network=is_named,
        expose_headers=EXPOSED_HEADERS,
    )


def _rates() -> dict[bytes, bytes]:
    """Headers about the limits of the caller's key, if it has any."""
    rates = RATES.get()
    return {name.encode(): value.encode() for name, value in rates[-1].headers().items()} if rates else {}


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


class Middleware:
    """ASGI middleware around the whole app. `sites`: where requests may come from; `budget`: of memory;
    `has_security`: whether security headers are sent; `has_facts`: whether the log's lines have members;
    `has_limits`: whether keys may have limits; `has_traces`: whether callers' trace contexts are kept. A
    WebSocket is only checked for its host and site.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sites: Sites,
        budget: Budget,
        has_security: bool = True,
        has_facts: bool = False,
        has_limits: bool = False,
        has_traces: bool = False,
    ) -> None:
        self._sites, self._budget, self._turns = sites, budget, Turns()
        self._has_facts, self._has_limits, self._has_traces = has_facts, has_limits, has_traces
        self._security = SECURITY if has_security else {}
        self._handlers, self._app = app, with_cors(self._guarded, sites.origins)
        self._last_resort = with_cors(_failed, sites.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and (error := self._sites.refusal(scope)) is not None:
            await WebSocket(scope, receive, send).send_denial_response(refusal(error, scope))
            return
        if scope["type"] != "http":
            await self._handlers(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        ids = {name: id for name in IDS if (id := headers.get(name)) is not None and ID.fullmatch(id)}
        id = ids.get(CORRELATION_ID) or b"req_%024x" % random.getrandbits(96)
        own = {b"x-request-id": id, **ids, **VERSION}
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took_ms = round((time.perf_counter() - started) * 1000)
                # the response's own headers win: a provider's processing time is more exact
                defaults = {b"openai-processing-ms": b"%d" % took_ms, **self._security}
                if self._has_limits:
                    defaults |= _rates()
                headers = {**defaults, **dict(message["headers"]), **own}
                message = {**message, "headers": list(headers.items())}
            if len(message.get("body", b"")) > PIECE:
                message = await _last_piece(message, send)
            await send(message)

        logs.REQUEST_ID.set(own[b"x-request-id"].decode())  # for this request's task only
        if self._has_facts:
            logs.FACTS.set({})
        if self._has_limits:
            RATES.set([])
        if self._has_traces and (parent := headers.get(b"traceparent")) is not None:
            logs.TRACEPARENT.set(parent.decode("latin-1"))
        try:
            await self._app(scope, receive, send_with_ids)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await self._last_resort(scope, receive, send_with_ids)
        took_ms = (time.perf_counter() - started) * 1000
        extra = self._extra(scope, status, took_ms) if self._has_facts else None
        log.info("%s %s %d %.0f ms", scope["method"], scope["path"], status, took_ms, extra=extra)

    @staticmethod
    def _extra(scope: Scope, status: int, took_ms: float) -> dict[str, object]:
        """The members of the log's line: what the gateway knows of the request, and its path and status."""
        address = scope["client"][0] if scope.get("client") else None
        place = {"method": scope["method"], "path": scope["path"], "status": status, "address": address}
        return {"facts": {**place, "duration_ms": round(took_ms, 1), **(logs.FACTS.get() or {})}}

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._sites.refusal(scope)
        if error is not None:
            await refusal(error, scope)(scope, receive, send)
            return
        if scope["path"] not in PROBES:
            await self._turns.wait()
        charge = scope[CHARGE] = Charge(self._budget)
        try:
            await self._handlers(scope, receive, send)
        finally:
            charge.release()
            if self._budget.released >= TRIM_AFTER:
                self._budget.trim_later()


async def _last_piece(message: Message, send: Send) -> Message:
    """Send all of a body but its last piece, which is returned. Writing copies it, which for megabytes
    takes as long as a hundred short answers.
    """
    body: bytes = message["body"]
    last = (len(body) - 1) // PIECE * PIECE
    for start in range(0, last, PIECE):
        await send({**message, "body": body[start : start + PIECE], "more_body": True})
        await asyncio.sleep(0)
    return {**message, "body": body[last:]}


async def _failed(scope: Scope, receive: Receive, send: Send) -> None:
    await refusal(ServerError("the server had an error"), scope)(scope, receive, send)
