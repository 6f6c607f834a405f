"""What chat and text completions share: start a generation, then stream it or fold it into one JSON
answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from headrace.api.disconnect import while_connected
from headrace.api.sse import Encoder, EventStream
from headrace.gateway.gateway import Gateway, Generation
from headrace.types import GenerateRequest, ModelInfo
from headrace.wire.generation import Collected


async def respond(
    http: Request,
    request: GenerateRequest,
    headers: dict[str, str],
    *,
    encoder: Callable[[ModelInfo], Encoder] | None,
    whole: Callable[[ModelInfo, Collected], dict[str, Any]],
) -> Response:
    """A stream through `encoder`, or, where that is None, one JSON answer through `whole`."""
    gateway: Gateway = http.app.state.gateway
    generation = await gateway.start(request)
    if encoder is not None:
        return EventStream(generation, encoder(generation.info), headers)
    try:
        collected = await while_connected(http.receive, generation, _collect(generation))
        return JSONResponse(whole(generation.info, collected), headers=headers)
    finally:
        await generation.aclose()


def is_strict(http: Request) -> bool:
    """Whether unknown members are refused: the header X-Headrace-Strict, else the configuration."""
    asked = http.headers.get("x-headrace-strict")
    return (
        bool(http.app.state.config.server.strict) if asked is None else asked.strip().lower() in ("true", "1")
    )


async def _collect(generation: Generation) -> Collected:
    collected = Collected()
    async for event in generation.events:
        collected.push(event)
    return collected
