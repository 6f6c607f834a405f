"""What chat and text completions share: start a generation, then stream it or fold it into one JSON
answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from headrace.api.body import prepared
from headrace.api.disconnect import connected
from headrace.api.json_response import json_answer
from headrace.api.provider import went_to
from headrace.api.sse import OPENING_S, Encoder, EventStream, Line
from headrace.features import Use, Uses
from headrace.gateway.generation import Generation
from headrace.types import Conversation, GenerateRequest, ModelInfo, Started
from headrace.wire.collected import Collected, collect
from headrace.wire.parameters import Table, uses_of, with_named
from headrace.wire.validation import RequestBody

LOGPROB = 100  # bytes of one, as JSON


@dataclass(frozen=True, slots=True)
class Reply:
    """How a generation is written. `encoder`: of a stream; None: one JSON answer, written by `whole`. `line`
    frames the stream, `remark` is a comment at its end. `names`: what the endpoint calls a member of chat
    completions.
    """

    encoder: Callable[[ModelInfo], Encoder] | None
    whole: Callable[[ModelInfo, Collected], dict[str, Any]]
    line: type[Line] = Line
    remark: Callable[[], str] = str
    names: Callable[[str], str] = str


def without_wishes(http: Request, request: GenerateRequest) -> GenerateRequest:
    """A strict request loses nothing: what its target refuses is refused."""
    if not is_strict(http) or not isinstance(request.prompt, Conversation):
        return request
    return replace(request, prompt=replace(request.prompt, wishes=frozenset()))


async def respond(
    http: Request, starting: Awaitable[Generation], reply: Reply, headers: Mapping[str, str]
) -> Response:
    """Start a generation, then stream it or fold it into one JSON answer. Raises ServerError."""
    async with connected(http.receive):
        generation = await starting
    noted = map(reply.names, generation.noted)
    headers = with_named(dict(headers), list(dict.fromkeys([*noted, *generation.ignored])))
    headers |= went_to(generation.provider, generation.attempts)
    if reply.encoder is not None:
        stream = partial(
            EventStream, generation, reply.encoder(generation.info), line=reply.line, remark=reply.remark
        )
        return stream(headers | await _opening(http, generation))
    try:
        async with connected(http.receive, generation.interrupted):
            collected = await collect(generation, generation.n)
            took = timing(collected.started, collected.decode_s)
            whole = partial(reply.whole, generation.info, collected)
            return await json_answer(_size(collected), whole, headers | took)
    finally:
        await generation.aclose()


def _size(collected: Collected) -> int:
    """About how many bytes it is as JSON."""
    choices = collected.choices.values()
    return sum(
        len(choice.text)
        + len(choice.reasoning)
        + sum(LOGPROB * (1 + len(token.top)) for token in choice.logprobs)
        for choice in choices
    )


async def uses_in(http: Request, body: RequestBody, table: Table, more: Iterable[Use] = ()) -> Uses:
    """What a body asks for, whichever backend is to answer it. `more`: what no single member asks for."""
    return await prepared(http, partial(uses_of, body, table, strict=is_strict(http), more=more))


def is_strict(http: Request) -> bool:
    """Whether unknown members are refused: the header X-Headrace-Strict, else the configuration."""
    asked = http.headers.get("x-headrace-strict")
    return (
        bool(http.app.state.config.server.strict) if asked is None else asked.strip().lower() in ("true", "1")
    )


async def _opening(http: Request, generation: Generation) -> dict[str, str]:
    """Wait for a stream's first event, so that an error before it gets its own status. The headers that tell
    how long the request waited, if the event comes in time.
    """
    try:
        async with connected(http.receive, generation.interrupted):
            first = await generation.first(OPENING_S)
    except BaseException:
        await generation.aclose()
        raise
    return timing(first) if isinstance(first, Started) else {}


def timing(started: Started | None, decode_s: float | None = None) -> dict[str, str]:
    """The header Server-Timing, in ms, of what is known."""
    if started is None:
        return {}
    parts = {"queue": started.queue_s, "prefill": started.prefill_s, "decode": decode_s}
    told = [f"{name};dur={took_s * 1000:.1f}" for name, took_s in parts.items() if took_s is not None]
    return {"Server-Timing": ", ".join(told)}
