"""/v1/responses: turns that are kept, and the same without being kept."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from headrace.api.auth import Caller
from headrace.api.body import json_body, prepared
from headrace.api.disconnect import connected
from headrace.api.errors import RESPONSES
from headrace.api.generations import is_strict, timing
from headrace.api.json_response import JSONResponse, json_answer
from headrace.api.listing import NewestFirst, query_of
from headrace.api.memory import CHARGE
from headrace.api.openapi import stream_of
from headrace.api.provider import gateway_of, provider_of, went_to
from headrace.api.routes import route
from headrace.api.runs import FollowedStream
from headrace.api.sse import OPENING_S
from headrace.errors import BadRequest
from headrace.features import Uses
from headrace.turns.responses import Responses
from headrace.turns.runs import Run
from headrace.types import Finished, Started
from headrace.wire.conversations import ItemList
from headrace.wire.pagination import include, list_object
from headrace.wire.parameters import with_named
from headrace.wire.responses.body import CompactBody, HistoryBody, InputTokensBody, ResponseBody, told_name
from headrace.wire.responses.parameters import uses_of
from headrace.wire.responses.schemas import (
    CompactedResponse,
    DeletedResponse,
    InputTokens,
    ResponseEvent,
    ResponseObject,
)

router = APIRouter(tags=["responses"], responses=RESPONSES)

QUERY = ("include", "stream", "starting_after", "include_obfuscation")

STREAMED = stream_of(
    ResponseEvent,
    "With `stream: true`: events `response.created` to `response.completed` (or "
    "`.incomplete`, `.failed`), then `data: [DONE]`.",
)


@route(
    router,
    "POST",
    "/responses",
    summary="Answer, and keep the answer",
    response_model=ResponseObject,
    responses={200: STREAMED},
    body=ResponseBody,
)
async def create_response(
    http: Request, caller: Caller, body: Annotated[ResponseBody, Depends(json_body(ResponseBody))]
) -> Response:
    uses = await prepared(http, partial(uses_of, body, strict=is_strict(http)))
    headers = _left_out(http, uses, body) if body.background else {}
    async with connected(http.receive):
        run = await turns_of(http).create(caller.id, body, provider_of(http), uses=uses)
    if body.background:
        charge = http.scope[CHARGE].moved()
        run.when_done(charge.release)
        return (
            FollowedStream(run.follow(), headers)
            if body.stream
            else JSONResponse(run.response, headers=headers)
        )
    try:
        if body.stream:
            return await _streamed(http, run)
        async with connected(http.receive):
            await run.done()
        return await _whole(run)
    except BaseException:
        await asyncio.shield(run.cancel())
        raise


async def _streamed(http: Request, run: Run) -> Response:
    """Once its first event has come, or it has failed, or a moment has passed."""
    async with connected(http.receive):
        await run.wait_for_first(OPENING_S)
    if run.is_done and run.first is None and run.error is not None:
        raise run.error
    run.recorder.is_announced = True
    return FollowedStream(run.follow(), _went(run), run)


async def _whole(run: Run) -> Response:
    if run.error is not None:
        raise run.error
    is_lost = run.recorder.is_stored and not run.response["store"]
    persisted = {"X-Headrace-Persisted": "false"} if is_lost else {}
    size = sum(map(len, run.texts))
    return await json_answer(size, lambda: run.response, {**_went(run), **persisted})


def _went(run: Run) -> dict[str, str]:
    """Who answers, and where the time went."""
    assert run.generation is not None
    started = run.first if isinstance(run.first, Started) else None
    decode_s = run.last.decode_s if isinstance(run.last, Finished) else None
    went = went_to(run.generation.provider, run.generation.attempts)
    noted = map(told_name, run.generation.noted)
    named = list(dict.fromkeys([*noted, *run.generation.ignored]))
    return with_named({**went, **timing(started, decode_s)}, named)


@router.get(
    "/v1/responses/{id}",
    summary="A stored response, or the events of its stream",
    response_model=ResponseObject,
)
async def get_response(http: Request, response: Response, caller: Caller, id: str) -> Response:
    include(query_of(http, response, QUERY))
    after = _after(http)
    if not _flag(http, "stream"):
        if after is not None:
            raise BadRequest("starting_after is only allowed with stream=true", param="starting_after")
        return JSONResponse(await turns_of(http).get(caller.id, id), headers=dict(response.headers))
    texts = await turns_of(http).follow(caller.id, id, -1 if after is None else after)
    return FollowedStream(texts, dict(response.headers))


@router.delete("/v1/responses/{id}", summary="Delete a response", response_model=DeletedResponse)
async def delete_response(http: Request, caller: Caller, id: str) -> dict[str, Any]:
    await turns_of(http).delete(caller.id, id)
    return {"id": id, "object": "response", "deleted": True}


@router.post(
    "/v1/responses/{id}/cancel",
    summary="Cancel a response that runs in the background",
    response_model=ResponseObject,
)
async def cancel_response(http: Request, caller: Caller, id: str) -> Response:
    return JSONResponse(await turns_of(http).cancel(caller.id, id))


@router.get("/v1/responses/{id}/input_items", summary="What a response was asked", response_model=ItemList)
async def list_input_items(http: Request, caller: Caller, id: str, page: NewestFirst) -> dict[str, Any]:
    items = await turns_of(http).input_items(
        caller.id, id, limit=page.limit, after=page.after, order=page.order
    )
    return list_object([item.body for item in items.data], has_more=items.has_more)


@route(
    router,
    "POST",
    "/responses/input_tokens",
    summary="How many tokens a response would be asked with",
    response_model=InputTokens,
    body=InputTokensBody,
)
async def count_input_tokens(
    http: Request, caller: Caller, body: Annotated[InputTokensBody, Depends(json_body(InputTokensBody))]
) -> Response:
    headers = _left_out(http, await prepared(http, partial(uses_of, body, strict=is_strict(http))), body)
    async with connected(http.receive):
        count = await turns_of(http).count_input(caller.id, body, provider_of(http))
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count}, headers=headers)


@route(
    router,
    "POST",
    "/responses/compact",
    summary="A summary that stands for a conversation",
    response_model=CompactedResponse,
    body=CompactBody,
)
async def compact_response(
    http: Request, caller: Caller, body: Annotated[CompactBody, Depends(json_body(CompactBody))]
) -> Response:
    headers = _left_out(http, await prepared(http, partial(uses_of, body, strict=is_strict(http))), body)
    async with connected(http.receive):
        compacted = await turns_of(http).compact(caller.id, body, provider_of(http))
    return JSONResponse(compacted, headers=headers)


def _left_out(http: Request, uses: Uses, body: HistoryBody) -> dict[str, str]:
    """The header that names what has no effect where the request goes first. Raises BadRequest."""
    return with_named({}, gateway_of(http).left_out(uses, body.model, provider_of(http)))


def turns_of(http: Request) -> Responses:
    responses: Responses = http.app.state.responses
    return responses


def _flag(http: Request, name: str) -> bool:
    given = http.query_params.get(name, "false").lower()
    if given not in ("true", "false"):
        raise BadRequest(f"{name} is {given[:100]!r}; it must be true or false", param=name)
    return given == "true"


def _after(http: Request) -> int | None:
    given = http.query_params.get("starting_after")
    if given is None:
        return None
    if not given.isdecimal() or len(given) > 12:
        raise BadRequest("starting_after is no sequence_number", param="starting_after")
    return int(given)
