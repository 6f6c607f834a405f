"""What chat and text completions share: start a generation, then stream it or fold it into one JSON
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import JSONResponse, Response

from headrace.api.disconnect import while_connected
from headrace.api.opening import first_event
from headrace.api.provider import provider_of, went_to
from headrace.api.sse import Encoder, EventStream
from headrace.gateway.gateway import Gateway, Generation, Judge
from headrace.types import GenerateRequest, ModelInfo, Started
from headrace.wire.generation import Collected
from headrace.wire.parameters import Table, judged, with_named
from headrace.wire.validation import RequestBody


class Start(Protocol):
    """Gateway.start, or what is done around it."""

    def __call__(
        self, gateway: Gateway, request: GenerateRequest, provider: str | None, /, *, judge: Judge
    ) -> Coroutine[Any, Any, Generation]: ...


async def respond(
    http: Request,
    request: GenerateRequest,
    headers: dict[str, str],
    *,
    encoder: Callable[[ModelInfo], Encoder] | None,
    whole: Callable[[ModelInfo, Collected], dict[str, Any]],
    stream: Callable[[Generation, Encoder, dict[str, str]], EventStream] = EventStream,
    start: Start = Gateway.start,
    judge: Judge = lambda _: (),
) -> Response:
    """A stream through `encoder`, or, where that is None, one JSON answer through `whole`."""
    starting = start(http.app.state.gateway, request, provider_of(http), judge=judge)
    generation = await while_connected(http.receive, None, starting)
    named = with_named(headers, generation.ignored)
    told = {**named, **went_to(generation.provider, generation.attempts)}
    if encoder is not None:
        return await _opened(http, generation, partial(stream, generation, encoder(generation.info)), told)
    try:
        collected = await while_connected(http.receive, generation, _collect(generation, request.n))
        took = timing(collected.started, collected.decode_s)
        return JSONResponse(whole(generation.info, collected), headers={**told, **took})
    finally:
        await generation.aclose()


def judge_of(http: Request, body: RequestBody, table: Table) -> Judge:
    """What becomes of the body's members, wherever they go."""
    strict = is_strict(http)
    return lambda kind: judged(body, table, kind, strict=strict)


def is_strict(http: Request) -> bool:
    """Whether unknown members are refused: the header X-Headrace-Strict, else the configuration."""
    asked = http.headers.get("x-headrace-strict")
    return (
        bool(http.app.state.config.server.strict) if asked is None else asked.strip().lower() in ("true", "1")
    )


async def _opened(
    http: Request,
    generation: Generation,
    stream: Callable[[dict[str, str]], EventStream],
    headers: dict[str, str],
) -> Response:
    try:
        first = await first_event(http.receive, generation)
    except BaseException:
        await generation.aclose()
        raise
    took = timing(first) if isinstance(first, Started) else {}
    return stream({**headers, **took})


async def _collect(generation: Generation, n: int) -> Collected:
    collected = Collected(n)
    async for event in generation.events:
        collected.push(event)
    return collected


def timing(started: Started | None, decode_s: float | None = None) -> dict[str, str]:
    """The header Server-Timing, in ms, of what is known."""
    if started is None:
        return {}
    parts = {"queue": started.queue_s, "prefill": started.prefill_s, "decode": decode_s}
    told = [f"{name};dur={took_s * 1000:.1f}" for name, took_s in parts.items() if took_s is not None]
    return {"Server-Timing": ", ".join(told)}
