"""The relay: requests to a provider of their own dialect are passed on as they are, and so are its answers.
They never reach the handlers; all other requests do, invalid ones included.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace import logs
from headrace.api.answers import HEADERS, KEEP_ALIVE_S, StreamWriter, keep_alive, target_headers
from headrace.api.authentication import authenticate
from headrace.api.errors import refusal
from headrace.api.messages import MessagesWriter
from headrace.api.request import BODY, HANG_UP, header_of, headers_of, is_strict, prepared, read_json
from headrace.errors import ClientGone, ServerError
from headrace.gateway.gateway import Gateway, Settle
from headrace.gateway.lifetime import End, Tally
from headrace.gateway.routing import Plan
from headrace.relay_types import Dialect, Relayed, RelayRequest, Verbatim
from headrace.wire.anthropic.request import HEADERS as ANTHROPICS
from headrace.wire.parameters import IGNORED, with_named

log = logging.getLogger(__name__)

RawHeaders = list[tuple[bytes, bytes]]
JSON: RawHeaders = [(b"content-type", b"application/json")]
MAX_TIMEOUT_S = 10**9  # event loops cannot wait for arbitrarily long
STREAM: RawHeaders = [(b"content-type", b"text/event-stream; charset=utf-8")]
STEERING = frozenset(("steering", "profile", "probe"))  # members
STREAM_HEADERS: RawHeaders = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


@dataclass(frozen=True, slots=True)
class RelayEndpoint:
    """One endpoint of a dialect. `headers`: the request headers that belong to the dialect; `id_header`: a
    second name of the response header x-request-id.
    """

    endpoint: str
    dialect: Dialect = "openai"
    writer: type[StreamWriter] = StreamWriter
    headers: tuple[str, ...] = ()
    id_header: bytes | None = None

    def id_headers(self) -> RawHeaders:
        return [] if self.id_header is None else [(self.id_header, logs.REQUEST_ID.get().encode())]


def _of_anthropic(endpoint: str) -> RelayEndpoint:
    return RelayEndpoint(endpoint, "anthropic", MessagesWriter, ANTHROPICS, b"request-id")


RELAY_ENDPOINTS = {
    endpoint.endpoint: endpoint
    for endpoint in (
        RelayEndpoint("/chat/completions"),
        RelayEndpoint("/completions"),
        RelayEndpoint("/embeddings"),
        _of_anthropic("/messages"),
        _of_anthropic("/messages/count_tokens"),
    )
}


class Relay:
    """ASGI middleware around the handlers, which get every request that cannot be passed on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint, provider = _endpoint(scope)
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        http = Request(scope, receive)
        gateway: Gateway = http.app.state.gateway
        if is_strict(http):
            await self.app(scope, receive, send)
            return
        writer = endpoint.writer(send)
        try:
            caller = await authenticate(http)
            raw = await read_json(http)
            request = await prepared(http, partial(_request, endpoint, http, raw, caller.id))
            plan = gateway.relayable(request, provider) if request is not None else None
            if request is None or plan is None:
                scope[BODY] = raw
                await self.app(scope, receive, send)
            else:
                await RelayedRequest(gateway, request, plan, writer, endpoint.id_headers()).run(http)
        except ServerError as exc:
            if writer.is_started:
                await writer.fail(exc)
            else:
                await refusal(exc, scope)(scope, receive, send)


def needs_store(members: Mapping[str, object], http: Request) -> bool:
    """Whether the answer is to be stored here, or continues a stored conversation: a handler does that."""
    return (
        members.get("store") is True
        or members.get("conversation") is not None
        or members.get("conversation_id") is not None
        or header_of(http, b"x-conversation-id") is not None
    )


def is_steered(members: Mapping[str, object], http: Request) -> bool:
    """Whether a request is about steering, which no provider has: a handler refuses it."""
    is_wished = not STEERING.isdisjoint(members) and any(
        members.get(name) not in (None, False) for name in STEERING
    )
    return is_wished or header_of(http, b"x-steering-profile") is not None


def _endpoint(scope: Scope) -> tuple[RelayEndpoint | None, str | None]:
    """The endpoint of a request, and the provider that its path names; (None, None): requests there are never
    passed on.
    """
    if scope["type"] != "http" or scope["method"] != "POST":
        return None, None
    provider, _, endpoint = scope["path"].partition("/v1/")
    if "/" in provider[1:]:
        return None, None
    return RELAY_ENDPOINTS.get(f"/{endpoint}"), provider[1:] or None


def _request(endpoint: RelayEndpoint, http: Request, raw: bytes, owner: str) -> RelayRequest | None:
    """The request to pass on; None if a handler has to process the body, or report its errors."""
    try:
        body = Verbatim(raw)
    except (ValueError, RecursionError):
        return None
    member = body.members.get
    model, is_streamed, timeout_s = member("model"), member("stream"), member("timeout")
    if not isinstance(model, str) or not (is_streamed is None or isinstance(is_streamed, bool)):
        return None
    if timeout_s is not None and not (type(timeout_s) in (int, float) and 0 < timeout_s < MAX_TIMEOUT_S):
        return None
    if needs_store(body.members, http) or is_steered(body.members, http):
        return None
    headers = headers_of(http, endpoint.headers) if endpoint.headers else {}
    return RelayRequest(
        endpoint.dialect, endpoint.endpoint, body, model, bool(is_streamed), headers, timeout_s, owner
    )


class RelayedRequest:
    """One request that is passed on. `headers`: further response headers; `keep_alive_s`: the longest time
    without a frame.
    """

    def __init__(
        self,
        gateway: Gateway,
        request: RelayRequest,
        plan: Plan,
        writer: StreamWriter,
        headers: RawHeaders,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._gateway, self._request, self._plan, self._writer = gateway, request, plan, writer
        self._headers, self._keep_alive_s = headers, keep_alive_s

    async def run(self, http: Request) -> None:
        """Pass the request on, and send the answer. Raises ServerError: before the response has started, it
        decides the status, later it is sent as an event.
        """
        beat, hang_up = self._beat(), http.scope.get(HANG_UP)
        ends: tuple[End, ...] = tuple(beat) if hang_up is None else (*beat, hang_up())
        receive = http.receive if hang_up is None else None
        try:
            await self._gateway.relay(self._request, self._plan, self._send, *ends, receive=receive)
        except ClientGone:
            if not self._writer.is_started:
                raise
        except ServerError:
            raise
        except Exception as exc:
            log.exception("a request that was passed on failed")
            raise ServerError("the server had an error") from exc
        finally:
            for task in beat:  # also of a request that is not admitted
                task.cancel()

    def _beat(self) -> list[asyncio.Task[ServerError]]:
        """A task that keeps a stream alive, also before the provider answers. On a route, nothing is sent
        before there is an answer, because another target may be tried until then.
        """
        if not self._request.is_streamed:
            return []
        opening = self._open if self._plan.route is None else None
        return [asyncio.ensure_future(keep_alive(self._writer, self._keep_alive_s, opening))]

    async def _open(self) -> None:
        await self._start([], self._plan.targets[0].backend.name, 1)

    async def _send(self, relayed: Relayed, tally: Tally, settle: Settle) -> None:
        """Send the headers, and the whole body or a stream's events. Before the end, set the tally's usage
        and settle.
        """
        headers, answer = relayed.headers, relayed.answer
        if isinstance(answer, bytes):
            headers = (*headers, (b"content-length", b"%d" % len(answer)))
        if relayed.ignored:
            ignored = with_named({}, relayed.ignored)[IGNORED]
            headers = (*headers, (IGNORED.lower().encode(), ignored.encode()))
        tally.began = perf_counter()
        if isinstance(answer, bytes):
            tally.usage = relayed.usage()
            await settle()
            await self._start(headers, tally.provider or "", tally.attempts)
            await self._writer.close(answer)
            return
        await self._start(headers, tally.provider or "", tally.attempts)
        try:
            async for events in answer:
                if relayed.is_over():
                    tally.usage = relayed.usage()
                    await settle()
                await self._writer.send_frames(events)
        finally:
            tally.usage = relayed.usage()
        await settle()
        await self._writer.close()

    async def _start(self, headers: Sequence[tuple[bytes, bytes]], provider: str, attempts: int) -> None:
        if self._writer.is_started:
            return
        target = target_headers(provider, attempts)
        own = [(name.lower().encode(), value.encode()) for name, value in target.items()]
        # the content type is ours: providers' own labels are often wrong
        content_type, stream = (STREAM, STREAM_HEADERS) if self._request.is_streamed else (JSON, [])
        await self._writer.start(200, [*content_type, *headers, *stream, *own, *self._headers])
