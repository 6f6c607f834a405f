"""Request ids, the access log, security headers, and the response to unexpected errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace import logs
from headrace.api.cors import SECURITY, with_cors
from headrace.api.errors import to_response
from headrace.errors import ServerError

log = logging.getLogger("headrace.access")

ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestLog:
    """The outermost ASGI middleware: gives each request an id, logs it, and answers unexpected errors with a
    plain 500. `origins`: of pages that may read that answer; `has_security`: whether security headers are
    sent.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str] = (), has_security: bool = True) -> None:
        self.app = app
        self._last_resort = with_cors(to_response(ServerError("the server had an error")), origins)
        self._security = SECURITY if has_security else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_headers = dict(scope["headers"])
        correlation = _valid_id(request_headers.get(b"x-correlation-id"))
        id = _valid_id(request_headers.get(b"x-request-id")) or correlation or f"req_{secrets.token_hex(12)}"
        own = {b"x-request-id": id.encode(), b"openai-version": b"2020-10-01"}
        if correlation is not None:
            own[b"x-correlation-id"] = correlation.encode()
        status = 0

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                took_ms = round((time.perf_counter() - started) * 1000)
                # the response's own headers win: a provider's processing time is more exact
                defaults = {b"openai-processing-ms": b"%d" % took_ms, **self._security}
                headers = {**defaults, **dict(message["headers"]), **own}
                message = {**message, "headers": list(headers.items())}
            await send(message)

        with logs.request(id):
            try:
                await self.app(scope, receive, send_with_ids)
            except Exception:
                log.exception("%s %s failed", scope["method"], scope["path"])
                if not status:
                    await self._last_resort(scope, receive, send_with_ids)
            took_ms = (time.perf_counter() - started) * 1000
            log.info("%s %s %d %.0f ms", scope["method"], scope["path"], status, took_ms)


def _valid_id(id: bytes | None) -> str | None:
    """A caller's id, if it is safe in headers and logs."""
    return id.decode() if id is not None and ID.fullmatch(id) else None
