"""The response object, with all members that the Open Responses specification requires."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from headrace.collected import Collected
from headrace.dialects.openai import ResponseUsage, responses_usage_body
from headrace.store import StoredItem, StoredResponse
from headrace.types import ModelInfo
from headrace.wire.activations import NOTHING
from headrace.wire.items import Item, compaction, new_id
from headrace.wire.responses import schemas
from headrace.wire.responses.body import ResponseBody, TextFormat, tools_of

NO_USAGE: ResponseUsage = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def begin(body: ResponseBody, info: ModelInfo, *, id: str, created_at: int) -> schemas.ResponseObject:
    """The response object before anything is generated."""
    tools = tools_of(body)
    conversation: schemas.ConversationMember = {}
    if body.conversation_id:
        conversation["conversation"] = {"id": body.conversation_id}
    user: schemas.UserMember = {} if body.user is None else {"user": body.user}
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "queued" if body.background else "in_progress",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_tokens if body.max_output_tokens is None else body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": info.id,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        **conversation,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": body.reasoning.effort if body.reasoning else None,
            "summary": body.reasoning.summary if body.reasoning else None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        **_sampling(body, info),
        "text": {
            "format": _format(body.text.format if body.text else None),
            "verbosity": (body.text.verbosity if body.text else None) or "medium",
        },
        "tool_choice": tools.written_choice,
        "tools": list(tools.written),
        "truncation": body.truncation or "disabled",
        "usage": None,
        **user,
        "metadata": body.metadata or {},
        **NOTHING,
    }


def _sampling(body: ResponseBody, info: ModelInfo) -> schemas.SamplingOfResponse:
    """The effective sampling members: the caller's, else the model's recommended, else OpenAI's defaults."""
    temperature, top_p = info.sampling.get("temperature", 1.0), info.sampling.get("top_p", 1.0)
    return {
        "temperature": temperature if body.temperature is None else body.temperature,
        "top_p": top_p if body.top_p is None else body.top_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "top_logprobs": body.top_logprobs or 0,
    }


def _format(requested: TextFormat | None) -> dict[str, Any]:
    if requested is None or requested.type != "json_schema":
        return {"type": requested.type if requested else "text"}
    return {
        "type": "json_schema",
        "name": requested.name,
        "description": requested.description,
        "schema": requested.schema_,
        "strict": bool(requested.strict),
    }


def restored(stored: StoredResponse, output: Sequence[StoredItem]) -> schemas.ResponseObject:
    """A stored response, with its output."""
    return cast(schemas.ResponseObject, {**stored.body, "output": [item.body for item in output]})


def compacted(collected: Collected, said: Sequence[Item] = ()) -> schemas.CompactedResponse:
    """The result of a compaction: the user's messages among all items (`said`), then the summary. Clients
    require a usage: it is zeros if unknown.
    """
    return {
        "id": new_id("resp"),
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*_of_user(said), compaction(collected.choices[0].text)],
        "usage": responses_usage_body(collected.usage) or NO_USAGE,
    }


def _of_user(said: Sequence[Item]) -> list[Item]:
    return [
        {"id": new_id("msg"), "status": "completed", **item}
        for item in said
        if item["type"] == "message" and item["role"] == "user"
    ]
