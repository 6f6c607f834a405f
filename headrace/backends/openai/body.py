"""Writes a neutral request as a body in OpenAI's dialect. Only members with a value are sent, so that the
provider's defaults apply and no provider gets a member that it does not know and the caller did not set.
"""

from __future__ import annotations

from typing import Any

from headrace.backends.openai.corrections import hashed_names, messages_of
from headrace.backends.writing import Writing, without_none
from headrace.encoder_types import RerankRequest
from headrace.errors import UnsupportedParameter
from headrace.offload import while_wanted
from headrace.text.structured.keywords import Node, subschemas
from headrace.types import (
    Conversation,
    EmbedRequest,
    Format,
    GenerateRequest,
    Media,
    Message,
    Sampling,
    Texts,
    Tool,
    ToolCall,
)

Body = dict[str, Any]
LOOSE = frozenset(
    ("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas",
     "patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties",
     "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems", "prefixItems")
)  # fmt: skip


def chat_body(
    request: GenerateRequest,
    prompt: Conversation,
    *,
    limit: str,
    has_all_roles: bool = True,
    signs_calls: bool = False,
    writing: Writing | None = None,
) -> Body:
    """Write the body of a chat completion. `limit`: the provider's name for max_tokens; `has_all_roles`,
    `signs_calls`: see corrections.py; `writing` records changes. Raises UnsupportedParameter.
    """
    writing = writing or Writing(request)
    messages = [_message(message, writing) for message in while_wanted(prompt.messages)]
    logprobs = request.sampling.logprobs
    optional = {
        "logprobs": None if logprobs is None else True,
        "top_logprobs": logprobs or None,
        "reasoning_effort": prompt.reasoning_effort,
        "verbosity": prompt.verbosity,
        "add_generation_prompt": None if prompt.add_generation_prompt else False,
        "continue_final_message": prompt.continue_final_message or None,
        "chat_template_kwargs": dict(prompt.template_kwargs) or None,
    }
    return {
        **_common(request, limit),
        "messages": messages_of(
            messages, writing.ignored, has_all_roles=has_all_roles, signs_calls=signs_calls
        ),
        **_tools(prompt, writing),
        **without_none(optional),
    }


def completion_body(request: GenerateRequest, prompt: Texts) -> Body:
    """Write the body of a text completion. Raises UnsupportedParameter."""
    prompts: list[Any] = [text if isinstance(text, str) else list(text) for text in prompt.prompts]
    if len({type(text) for text in prompts}) > 1:
        raise UnsupportedParameter.at("prompt", "a provider takes texts or tokens, not both")
    optional = {"suffix": prompt.suffix, "echo": prompt.echo or None, "logprobs": request.sampling.logprobs}
    one_or_all = prompts[0] if len(prompts) == 1 else prompts
    return {**_common(request, "max_tokens"), "prompt": one_or_all, **without_none(optional)}


def embed_body(request: EmbedRequest) -> Body:
    inputs: list[Any] = [text if isinstance(text, str) else list(text) for text in request.inputs]
    optional = {
        "dimensions": request.dimensions,
        "truncate_prompt_tokens": request.truncate_prompt_tokens,
        "user": request.user,
    }
    optional |= hashed_names(optional)
    return {"model": request.model, "input": inputs, "encoding_format": "float", **without_none(optional)}


def rerank_body(request: RerankRequest) -> Body:
    """All documents are scored: which of them the caller gets is decided here."""
    optional = {
        "truncate_prompt_tokens": request.truncate_prompt_tokens,
        "user": request.user,
    }
    optional |= hashed_names(optional)
    documents = list(request.documents)
    return {
        "model": request.model,
        "query": request.query,
        "documents": documents,
        "top_n": len(documents),
        **without_none(optional),
    }


def _common(request: GenerateRequest, limit: str) -> Body:
    optional = {
        "n": request.n if request.n > 1 else None,
        **_sampling(request.sampling, limit),
        "response_format": None if request.format is None else _format(request.format),
        "user": request.user,
        **request.advice,
    }
    optional |= hashed_names(optional)
    return {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **without_none(optional),
        **request.foreign,
    }


def _sampling(sampling: Sampling, limit: str) -> Body:
    return {
        limit: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty or None,
        "presence_penalty": sampling.presence_penalty or None,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "ignore_eos": sampling.ignore_eos or None,
        "min_tokens": sampling.min_tokens or None,
        "skip_special_tokens": None if sampling.skip_special_tokens else False,
        "truncate_prompt_tokens": sampling.truncate_prompt_tokens,
    }


def _format(format: Format) -> Body:
    if format.kind == "json_object":
        return {"type": "json_object"}
    assert format.kind == "json_schema", "it has no other form"
    schema = {} if format.value is True else format.value
    strict = {"strict": True} if _is_strict(schema) else {}
    if format.strict is not None:
        strict = {"strict": format.strict}
    description = {} if format.description is None else {"description": format.description}
    named = {"name": format.name or "answer", **description}
    return {"type": "json_schema", "json_schema": {**named, "schema": schema, **strict}}


def _is_strict(schema: Node) -> bool:
    """Whether OpenAI accepts a schema with `strict: true`, without which it does not enforce schemas: all
    members of its objects must be required, and no others allowed. LOOSE are refused then.
    """
    if not isinstance(schema, dict):
        return True
    if not LOOSE.isdisjoint(schema):
        return False
    if schema.get("type") == "object" or "properties" in schema:
        members = schema.get("properties", {})
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or set(members) != set(schema.get("required", ())):
            return False
    return all(_is_strict(part) for _, part in subschemas(schema))


def _tools(prompt: Conversation, writing: Writing) -> Body:
    """Write tools and tool_choice. If only some tools are allowed, only those are sent: few providers know
    OpenAI's `allowed_tools`.
    """
    choice = prompt.tool_choice
    mode: str | Body = choice.mode
    allowed = prompt.tools
    if choice.mode == "required" and choice.names is not None and len(choice.names) == 1:
        mode = {"type": "function", "function": {"name": writing.tool(choice.names[0])}}
    elif choice.names is not None:
        allowed = tuple(tool for tool in prompt.tools if tool.name in choice.names)
    if not allowed:
        return {}
    return {
        "tools": [_tool(tool, writing) for tool in allowed],
        **({} if mode == "auto" else {"tool_choice": mode}),
        **({} if prompt.parallel_tool_calls else {"parallel_tool_calls": False}),
    }


def _tool(tool: Tool, writing: Writing) -> Body:
    optional = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict or None}
    return {"type": "function", "function": {"name": writing.tool(tool.name), **without_none(optional)}}


def _message(message: Message, writing: Writing) -> Body:
    content: object = [_part(part) for part in message.parts] if message.parts else message.text
    calls = [_call(call, writing) for call in message.tool_calls]
    optional = {
        "name": message.name,
        "tool_calls": calls or None,
        "tool_call_id": None if message.tool_call_id is None else writing.call_id(message.tool_call_id),
        "reasoning_content": message.reasoning,
    }
    text = (content or None) if calls else content
    return {"role": message.role, "content": text, **without_none(optional)}


def _call(call: ToolCall, writing: Writing) -> Body:
    function = {"name": writing.tool(call.name), "arguments": writing.arguments_text(call.arguments)}
    return {"id": writing.call_id(call.id), "type": "function", "function": function}


def _part(part: str | Media) -> Body:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "image":
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": _url(part), **detail}}
    if part.data is None:
        raise UnsupportedParameter.at("messages", "a file has to be given as data")
    return {"type": "file", "file": {"filename": part.name or "document", "file_data": _url(part)}}


def _url(media: Media) -> str:
    if media.data is None:
        return media.url or ""
    return f"data:{media.media_type or 'application/octet-stream'};base64,{media.data}"
