"""What the endpoints that generate text share: start a generation, then stream it or fold it into one JSON
answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from fastapi import Request
from starlette.responses import Response

from headrace.api.body import prepared
from headrace.api.deadline import in_time
from headrace.api.dependencies import is_strict
from headrace.api.disconnect import connected
from headrace.api.json_response import json_answer
from headrace.api.sse import OPENING_S, Encoder, EventStream, StreamWriter
from headrace.features import Use, Uses
from headrace.gateway.gateway import ATTEMPTS
from headrace.gateway.generation import Generation
from headrace.types import Conversation, GenerateRequest, Json, ModelInfo, Started
from headrace.wire.collected import Collected, collect
from headrace.wire.parameters import Table, uses_of, with_named
from headrace.wire.validation import RequestBody

LOGPROB = 100  # bytes of one, as JSON


@dataclass(frozen=True, slots=True)
class Reply:
    """How a generation is written. `encoder` writes a stream; None means one JSON answer, written by `whole`.
    `writer` frames the stream, `remark` returns a comment for its end. `names` translates the names of chat
    completions' members into the endpoint's.
    """

    encoder: Callable[[ModelInfo], Encoder] | None
    whole: Callable[[ModelInfo, Collected], Json]
    writer: type[StreamWriter] = StreamWriter
    remark: Callable[[], str] = str
    names: Callable[[str], str] = str


def without_wishes(request: GenerateRequest) -> GenerateRequest:
    """A strict request, none of whose members may be left out when its target refuses them."""
    if not isinstance(request.prompt, Conversation):
        return request
    return replace(request, prompt=replace(request.prompt, wishes=frozenset()))


async def respond(
    http: Request, starting: Awaitable[Generation], reply: Reply, headers: Mapping[str, str]
) -> Response:
    """Start a generation, then stream it or fold it into one JSON answer. Raises ServerError."""
    async with in_time(http):
        generation = await starting
    noted = map(reply.names, generation.noted)
    headers = with_named(headers, list(dict.fromkeys([*noted, *generation.ignored])))
    headers |= target_headers(generation.provider, generation.attempts)
    if reply.encoder is not None:
        encoder = reply.encoder(generation.info)
        headers |= await _first_event(http, generation)
        return EventStream(generation, encoder, headers, writer=reply.writer, remark=reply.remark)
    try:
        async with connected(http.receive, generation.interrupted):
            collected = await collect(generation, generation.n)
            headers |= timing(collected.started, collected.decode_s)
            whole = partial(reply.whole, generation.info, collected)
            return await json_answer(_size(collected), whole, headers)
    finally:
        await generation.aclose()


def _size(collected: Collected) -> int:
    """The approximate size of the answer as JSON, in bytes."""
    choices = collected.choices.values()
    return sum(
        len(choice.text)
        + len(choice.reasoning)
        + sum(LOGPROB * (1 + len(token.top)) for token in choice.logprobs)
        for choice in choices
    )


async def uses_in(http: Request, body: RequestBody, table: Table, more: Iterable[Use] = ()) -> Uses:
    """The features that the members of a body ask for. `more`: those that no single member asks for."""
    return await prepared(http, partial(uses_of, body, table, strict=is_strict(http), more=more))


def target_headers(provider: str, attempts: int) -> dict[str, str]:
    """Response headers that name the provider that answered, and the number of attempts up to its own."""
    return {"X-Headrace-Backend": provider, ATTEMPTS: str(attempts)}


async def _first_event(http: Request, generation: Generation) -> dict[str, str]:
    """Wait for a stream's first event, so that an error before it gets its own status. Returns the header
    Server-Timing if the event comes within OPENING_S.
    """
    try:
        async with connected(http.receive, generation.interrupted):
            first = await generation.first(OPENING_S)
    except BaseException:
        await generation.aclose()
        raise
    return timing(first) if isinstance(first, Started) else {}


def timing(started: Started | None, decode_s: float | None = None) -> dict[str, str]:
    """The header Server-Timing with the durations that are known, in ms."""
    if started is None:
        return {}
    durations = {"queue": started.queue_s, "prefill": started.prefill_s, "decode": decode_s}
    metrics = [f"{name};dur={took_s * 1000:.1f}" for name, took_s in durations.items() if took_s is not None]
    return {"Server-Timing": ", ".join(metrics)}
