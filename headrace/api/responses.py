"""/v1/responses: create responses, stored or not, and read, cancel and delete stored ones."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.api.answers import (
    OPENING_S,
    LiveStream,
    StreamWriter,
    generation_headers,
    timing,
)
from headrace.api.errors import RESPONSES
from headrace.api.json_response import JSONResponse, answered, json_answer
from headrace.api.listing import NewestFirst, query_of
from headrace.api.openapi import EVENT_STREAM, response_of
from headrace.api.request import (
    CHARGE,
    Caller,
    base_model,
    destination,
    in_time,
    is_strict,
    prepared,
    steered,
)
from headrace.api.routes import V1, route
from headrace.errors import BadRequest, ServerError
from headrace.features import Uses
from headrace.gateway.lifetime import Until
from headrace.turns.responses import Responses
from headrace.turns.runs import Run
from headrace.types import Finished, Started
from headrace.wire.generation import dump
from headrace.wire.items import Item
from headrace.wire.limits import whole
from headrace.wire.pagination import ListObject, include, page_object
from headrace.wire.parameters import with_named
from headrace.wire.responses.body import (
    CompactBody,
    HistoryBody,
    InputTokensBody,
    ResponseBody,
    endpoint_name,
)
from headrace.wire.responses.object import (
    CompactedResponse,
    DeletedResponse,
    InputTokens,
    ResponseEvent,
    ResponseObject,
)
from headrace.wire.responses.stream import event_name
from headrace.wire.responses.tables import uses_of_responses

router = APIRouter(tags=["responses"], responses=RESPONSES)

QUERY = ("include", "stream", "starting_after", "include_obfuscation")

STREAMED = response_of(
    ResponseEvent,
    "With `stream: true`: events `response.created` to `response.completed` (or "
    "`.incomplete`, `.failed`), then `data: [DONE]`.",
    EVENT_STREAM,
)


class NamedEventWriter(StreamWriter):
    """Writes each event with an `event:` line that repeats its JSON `type`."""

    def framed(self, texts: list[str]) -> bytes:
        return "".join(
            f"data: {text}\n\n"
            if text in self.final_texts
            else f"event: {event_name(text)}\ndata: {text}\n\n"
            for text in texts
        ).encode()

    def error_text(self, error: ServerError) -> str:
        return dump({"type": "error", "code": error.code, "message": error.message, "param": error.param})


_event_stream = partial(LiveStream, writer=NamedEventWriter)


@route(
    router, "POST", "/responses", summary="Create a response", answer=ResponseObject,
    responses={200: STREAMED},
)  # fmt: skip
async def create_response(http: Request, caller: Caller, body: ResponseBody) -> Response:
    body = await steered(http, caller, body)
    uses = await _uses(http, body)
    headers = _left_out(http, uses, body) if body.background else {}
    responses, provider = _responses(http)
    async with in_time(http):
        run = await responses.create(caller.id, body, provider, uses=uses)
    if body.background:
        charge = http.scope[CHARGE].moved()
        run.when_done(charge.release)
        return (
            _event_stream(run.follow(), headers)
            if body.stream
            else JSONResponse(run.response, headers=headers)
        )
    try:
        if body.stream:
            return await _streamed(http, run)
        async with Until(receive=http.receive):
            await run.done()
        return await _whole(run)
    except BaseException:
        await asyncio.shield(run.cancel())
        raise


async def _streamed(http: Request, run: Run) -> Response:
    """Respond when the first event has come, the run has failed, or OPENING_S has passed."""
    async with Until(receive=http.receive):
        await run.wait_for_first(OPENING_S)
    if run.is_done and run.first is None and run.error is not None:
        raise run.error
    run.recorder.is_announced = True
    return _event_stream(run.follow(), _headers(run), run.cancel)


async def _whole(run: Run) -> Response:
    if run.error is not None:
        raise run.error
    persisted = {"X-Headrace-Persisted": "false"} if run.recorder.is_lost else {}
    size = sum(map(len, run.texts))
    return await json_answer(size, lambda: run.response, {**_headers(run), **persisted})


def _headers(run: Run) -> dict[str, str]:
    """Response headers: the provider, the steering, durations, and the members that are ignored."""
    assert run.generation is not None
    started = run.first if isinstance(run.first, Started) else None
    decode_s = run.last.decode_s if isinstance(run.last, Finished) else None
    target = generation_headers(run.generation)
    noted = map(endpoint_name, run.generation.noted)
    ignored = list(dict.fromkeys([*noted, *run.generation.ignored]))
    return with_named({**target, **timing(started, decode_s)}, ignored)


@route(
    router, "GET", "/responses/{id}", under=V1,
    summary="Retrieve a stored response, or the events of its stream", answer=ResponseObject,
)  # fmt: skip
async def get_response(http: Request, response: Response, caller: Caller, id: str) -> Response:
    include(query_of(http, response, QUERY))
    after = _after(http)
    if not _flag(http, "stream"):
        if after is not None:
            raise BadRequest("starting_after is only allowed with stream=true", param="starting_after")
        return await answered(await _responses(http)[0].get(caller.id, id), response.headers)
    texts = await _responses(http)[0].follow(caller.id, id, -1 if after is None else after)
    return _event_stream(texts, dict(response.headers))


@route(router, "DELETE", "/responses/{id}", under=V1, summary="Delete a response")
async def delete_response(http: Request, caller: Caller, id: str) -> DeletedResponse:
    await _responses(http)[0].delete(caller.id, id)
    return {"id": id, "object": "response", "deleted": True}


@route(
    router, "POST", "/responses/{id}/cancel", under=V1,
    summary="Cancel a response that runs in the background", answer=ResponseObject,
)  # fmt: skip
async def cancel_response(http: Request, caller: Caller, id: str) -> Response:
    return await answered(await _responses(http)[0].cancel(caller.id, id))


@route(router, "GET", "/responses/{id}/input_items", under=V1, summary="List the input items of a response")
async def list_input_items(http: Request, caller: Caller, id: str, page: NewestFirst) -> ListObject[Item]:
    items = await _responses(http)[0].input_items(caller.id, id, **page)
    return page_object(items, lambda item: item.body)


@route(
    router, "POST", "/responses/input_tokens", summary="Count the input tokens of a response",
    answer=InputTokens,
)  # fmt: skip
async def count_input_tokens(http: Request, caller: Caller, body: InputTokensBody) -> Response:
    body = body.model_copy(update={"model": base_model(http, body.model)})
    headers = _left_out(http, await _uses(http, body), body)
    responses, provider = _responses(http)
    async with in_time(http):
        count = await responses.count_input(caller.id, body, provider)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count}, headers=headers)


@route(
    router, "POST", "/responses/compact", summary="Compact a conversation into a summary",
    answer=CompactedResponse,
)  # fmt: skip
async def compact_response(http: Request, caller: Caller, body: CompactBody) -> Response:
    body = await steered(http, caller, body)
    headers = _left_out(http, await _uses(http, body), body)
    responses, provider = _responses(http)
    async with in_time(http):
        compacted = await responses.compact(caller.id, body, provider)
    return await answered(compacted, headers)


async def _uses(http: Request, body: HistoryBody) -> Uses:
    return await prepared(http, partial(uses_of_responses, body, strict=is_strict(http)))


def _left_out(http: Request, uses: Uses, body: HistoryBody) -> dict[str, str]:
    """The header that names the members without effect at the request's first target. Raises BadRequest."""
    gateway, provider = destination(http)
    return with_named({}, gateway.left_out(uses, body.model, provider))


def _responses(http: Request) -> tuple[Responses, str | None]:
    """The app's responses, and the provider that the path names, or None."""
    return http.app.state.responses, http.path_params.get("provider")


def _flag(http: Request, name: str) -> bool:
    """A query parameter that is true or false. Raises BadRequest."""
    text = http.query_params.get(name, "false").lower()
    if text not in ("true", "false"):
        raise BadRequest(f"{name} is {text[:100]!r}; it must be true or false", param=name)
    return text == "true"


def _after(http: Request) -> int | None:
    """The sequence number that a stream follows; None: it starts at its first event. Raises BadRequest."""
    text = http.query_params.get("starting_after")
    if text is None:
        return None
    number = whole(text, 12)
    if number is None:
        raise BadRequest("starting_after is no sequence_number", param="starting_after")
    return number
