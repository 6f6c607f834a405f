"""Requests that go to a provider of their own dialect are passed on as they are, and so are its answers. They
never reach the handlers; everything else does, whatever may be wrong with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace import logs
from headrace.api.auth import authenticate
from headrace.api.body import BODY, prepared, read_json
from headrace.api.disconnect import connected
from headrace.api.errors import to_messages_response, to_response
from headrace.api.generations import is_strict
from headrace.api.messages import NamedLine
from headrace.api.provider import went_to
from headrace.api.sse import HEADERS, KEEP_ALIVE_S, Line, kept_alive
from headrace.errors import ClientGone, ServerError
from headrace.gateway.gateway import Gateway
from headrace.gateway.metering import Tally
from headrace.gateway.routing import Plan
from headrace.relay_types import Dialect, Relayed, RelayRequest
from headrace.verbatim import Verbatim
from headrace.wire.parameters import IGNORED, with_named

log = logging.getLogger(__name__)

RawHeaders = list[tuple[bytes, bytes]]
JSON: RawHeaders = [(b"content-type", b"application/json")]
MAX_TIMEOUT_S = 10**9  # no clock takes any number
STREAM: RawHeaders = [(b"content-type", b"text/event-stream; charset=utf-8")]
STREAMED: RawHeaders = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


@dataclass(frozen=True, slots=True)
class RelayEndpoint:
    """One endpoint of a dialect. `headers`: those of a request that belong to the dialect."""

    endpoint: str
    dialect: Dialect = "openai"
    line: type[Line] = Line
    refusal: Callable[[ServerError], Response] = to_response
    headers: tuple[str, ...] = ()
    id_header: bytes | None = None  # beside x-request-id


def _of_anthropic(endpoint: str) -> RelayEndpoint:
    headers = ("anthropic-version", "anthropic-beta")
    return RelayEndpoint(endpoint, "anthropic", NamedLine, to_messages_response, headers, b"request-id")


RELAY_ENDPOINTS = {
    door.endpoint: door
    for door in (
        RelayEndpoint("/chat/completions"),
        RelayEndpoint("/completions"),
        RelayEndpoint("/embeddings"),
        _of_anthropic("/messages"),
        _of_anthropic("/messages/count_tokens"),
    )
}


class Relay:
    """ASGI middleware around the handlers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door, provider = _door(scope)
        if door is None:
            await self.app(scope, receive, send)
            return
        http = Request(scope, receive)
        gateway: Gateway = http.app.state.gateway
        if not gateway.has_relays or is_strict(http):
            await self.app(scope, receive, send)
            return
        line = door.line(send)
        try:
            await authenticate(http)
            raw = await read_json(http)
            asked = await prepared(http, partial(_asked, door, http, raw))
            plan = gateway.relayable(asked, provider) if asked is not None else None
            if asked is None or plan is None:
                scope[BODY] = raw
                await self.app(scope, receive, send)
            else:
                await RelayedRequest(gateway, asked, plan, line, _ids(door)).run(receive)
        except ServerError as exc:
            if line.is_started:
                await line.fail(exc)
            else:
                response = door.refusal(exc)
                response.raw_headers += _ids(door)
                await response(scope, receive, send)


def is_kept(members: Mapping[str, object], headers: Mapping[str, str]) -> bool:
    """Whether the answer is to be kept here, or goes on with something that is: then it has to be read."""
    return (
        members.get("store") is True
        or members.get("conversation") is not None
        or members.get("conversation_id") is not None
        or "x-conversation-id" in headers
    )


def _door(scope: Scope) -> tuple[RelayEndpoint | None, str | None]:
    """With the provider that the path names."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None, None
    provider, _, endpoint = scope["path"].partition("/v1/")
    if "/" in provider[1:]:
        return None, None
    return RELAY_ENDPOINTS.get(f"/{endpoint}"), provider[1:] or None


def _asked(door: RelayEndpoint, http: Request, raw: bytes) -> RelayRequest | None:
    """None: there is something in it for the handler to do, or to complain about."""
    try:
        body = Verbatim(raw)
    except (ValueError, RecursionError):
        return None
    given = body.members.get
    model, streamed, timeout_s = given("model"), given("stream"), given("timeout")
    if not isinstance(model, str) or not (streamed is None or isinstance(streamed, bool)):
        return None
    if timeout_s is not None and not (type(timeout_s) in (int, float) and 0 < timeout_s < MAX_TIMEOUT_S):
        return None
    if is_kept(body.members, http.headers):
        return None
    # a header that came in several lines is one list (RFC 9110, 5.3)
    headers = {
        name: ", ".join(dict.fromkeys(lines))
        for name in door.headers
        if (lines := http.headers.getlist(name))
    }
    return RelayRequest(door.dialect, door.endpoint, body, model, bool(streamed), headers, timeout_s)


def _ids(door: RelayEndpoint) -> RawHeaders:
    return [] if door.id_header is None else [(door.id_header, logs.request_id().encode())]


class RelayedRequest:
    """One request that is passed on. `keep_alive_s`: how long nothing may be sent."""

    def __init__(
        self,
        gateway: Gateway,
        asked: RelayRequest,
        plan: Plan,
        line: Line,
        headers: RawHeaders,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._gateway, self._asked, self._plan, self._line = gateway, asked, plan, line
        self._headers, self._keep_alive_s = headers, keep_alive_s

    async def run(self, receive: Receive) -> None:
        """Raises ServerError: before the answer has begun its status tells it, then the line."""
        try:
            with self._gateway.passage(self._asked) as (tally, interruption):
                async with self._kept_alive() as unheard, connected(receive, interruption.error, *unheard):
                    await self._pass(tally)
        except ClientGone:
            if not self._line.is_started:
                raise
        except ServerError:
            raise
        except Exception as exc:
            log.exception("a request that was passed on failed")
            raise ServerError("the server had an error") from exc

    @asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[tuple[asyncio.Future[ServerError], ...]]:
        """A caller should see that it is served. Along a route nothing is sent before there is an answer:
        until then another target may be asked.
        """
        if not self._asked.is_streamed:
            yield ()
            return
        opening = self._open if self._plan.route is None else None
        async with kept_alive(self._line, self._keep_alive_s, opening) as unheard:
            yield (unheard,)

    async def _open(self) -> None:
        await self._start([], self._plan.targets[0].backend.name, 1)

    async def _pass(self, tally: Tally) -> None:
        async with self._gateway.relay(self._asked, self._plan) as reached:
            tally.provider, tally.attempts = reached.provider, reached.attempts
            relayed = reached.value
            try:
                await self._pass_on(relayed, tally, reached.provider, reached.attempts)
            finally:
                tally.usage = relayed.usage.usage()
        await self._line.close(relayed.answer if isinstance(relayed.answer, bytes) else b"")

    async def _pass_on(self, relayed: Relayed, tally: Tally, provider: str, attempts: int) -> None:
        headers, answer = relayed.headers, relayed.answer
        if isinstance(answer, bytes):
            headers = (*headers, (b"content-length", b"%d" % len(answer)))
        if named := with_named({}, relayed.ignored):
            headers = (*headers, (IGNORED.lower().encode(), named[IGNORED].encode()))
        await self._start(headers, provider, attempts)
        tally.answer_began()
        if isinstance(answer, bytes):
            relayed.usage.saw(answer)
            return
        async for events in answer:
            relayed.usage.saw(events)
            await self._line.pass_on(events)

    async def _start(self, headers: Sequence[tuple[bytes, bytes]], provider: str, attempts: int) -> None:
        if self._line.is_started:
            return
        target = went_to(provider, attempts).items()
        went = [(name.lower().encode(), value.encode()) for name, value in target]
        # by what is sent from here: providers' own labels are often wrong
        default = STREAM if self._asked.is_streamed else JSON
        streamed = STREAMED if self._asked.is_streamed else []
        await self._line.start(200, [*default, *headers, *streamed, *went, *self._headers])
