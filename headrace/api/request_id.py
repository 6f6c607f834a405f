"""Every request has an id, in its response and in every log line; nothing leaves as a stack trace."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace import logs
from headrace.api.errors import to_response
from headrace.errors import ServerError

log = logging.getLogger("headrace.access")

SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestId:
    """ASGI middleware, the outermost: ids, the access line, and the answer of last resort."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope)
        correlation = _sane(given.get("x-correlation-id"))
        id = _sane(given.get("x-request-id")) or correlation or f"req_{secrets.token_hex(12)}"
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
                headers["openai-version"] = "2020-10-01"
                if correlation is not None:
                    headers["x-correlation-id"] = correlation
            await send(message)

        with logs.request(id):
            try:
                await self.app(scope, receive, send_with_ids)
            except Exception:
                log.exception("%s %s failed", scope["method"], scope["path"])
                if not status:
                    await to_response(ServerError("the server had an error"))(scope, receive, send_with_ids)
            took_ms = (time.perf_counter() - started) * 1000
            log.info("%s %s %d %.0f ms", scope["method"], scope["path"], status, took_ms)


def _sane(id: str | None) -> str | None:
    return id if id is not None and SANE.fullmatch(id) else None
