"""Writes a neutral request as bodies of Ollama's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.backends.writing import Writing, without_none
from headrace.errors import UnsupportedParameter
from headrace.finite import dumped_pieces
from headrace.offload import while_wanted
from headrace.types import (
    Conversation,
    EmbedRequest,
    Format,
    GenerateRequest,
    Media,
    Message,
    Sampling,
    Texts,
)

BYTES_A_TOKEN = 3  # most texts have more, so estimates of tokens are rather too high
IMAGE_TOKENS = 1024

Body = dict[str, Any]


def check(request: GenerateRequest) -> None:
    """Raise UnsupportedParameter for values that Ollama does not take and that would change the answer."""
    sampling, format, prompt = request.sampling, request.format, request.prompt
    refused = {"max_tokens": sampling.max_tokens == 0}
    if format is not None:
        refused[format.param] = format.value is False
    if isinstance(prompt, Texts):
        # an empty prompt only loads the model; there are no logprobs of a prompt
        refused["prompt"] = not all(isinstance(text, str) and text for text in prompt.prompts)
        refused["echo"] = prompt.echo and sampling.logprobs is not None
    else:
        refused["tool_choice"] = prompt.tool_choice.mode == "required"
        refused["chat_template_kwargs"] = bool(set(prompt.template_kwargs) - {"enable_thinking"})
    _refuse(refused)


def _refuse(refused: Mapping[str, bool]) -> None:
    for param, is_refused in refused.items():
        if is_refused:
            raise UnsupportedParameter.at(param, "ollama cannot do that")


def bodies_of(
    request: GenerateRequest, writing: Writing | None = None, *, thinks: bool | None = None
) -> tuple[str, list[Body]]:
    """Return the path and one body per choice, with the estimated size of its prompt as num_ctx. `thinks`:
    whether the model can think; None: unknown. Raises BadRequest.
    """
    prompt, writing = request.prompt, writing or Writing(request)
    shared: Body = {"model": request.model, "stream": True, "truncate": False, "shift": False}
    logprobs = request.sampling.logprobs
    optional = {"logprobs": None if logprobs is None else True, "top_logprobs": logprobs}
    shared |= _form(request.format) | without_none(optional)
    if isinstance(prompt, Texts):
        # without a suffix the prompt is used as it is; with one the model's template places both
        around: Body = {"raw": True} if prompt.suffix is None else {"suffix": prompt.suffix}
        prompts: list[Body] = [{"prompt": text, **around} for text in prompt.prompts]
    else:
        prompts = [
            {
                "messages": _messages(prompt.messages, writing),
                **_thinking(prompt, thinks),
                **_tools(prompt, writing),
            }
        ]
    options = {**without_none(_options(request.sampling)), **request.foreign}
    path = "/api/generate" if isinstance(prompt, Texts) else "/api/chat"
    return path, [{**shared, **body, "options": {**options, "num_ctx": _size(body)}} for body in prompts]


def embed_body(request: EmbedRequest) -> Body:
    """Write the body of an embeddings request, with the estimated size of the longest text as num_ctx. Raises
    UnsupportedParameter.
    """
    texts = [text for text in request.inputs if isinstance(text, str)]
    refused = {
        "input": len(texts) < len(request.inputs),
        "truncate_prompt_tokens": request.truncate_prompt_tokens not in (None, -1),
    }
    _refuse(refused)
    size = max(len(text.encode(errors="replace")) for text in texts) // BYTES_A_TOKEN
    body: Body = {"model": request.model, "input": texts, "options": {"num_ctx": size}}
    body["truncate"] = request.truncate_prompt_tokens == -1
    return body | without_none({"dimensions": request.dimensions})


def _size(body: Body) -> int:
    """Estimate the tokens of a prompt from its JSON, whose punctuation stands for the chat template."""
    messages = body.get("messages", [])
    texts = {**body, "messages": [{**message, "images": None} for message in messages]}
    num_images = sum(len(message.get("images", [])) for message in messages)
    size = sum(len(piece.encode(errors="replace")) for piece in dumped_pieces(texts, ensure_ascii=False))
    return size // BYTES_A_TOKEN + num_images * IMAGE_TOKENS


def _options(sampling: Sampling) -> Body:
    return {
        "num_predict": -1 if sampling.max_tokens is None else sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "repeat_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty or None,
        "presence_penalty": sampling.presence_penalty or None,
    }


def _form(format: Format | None) -> Body:
    if format is None:
        return {}
    return {"format": format.value if isinstance(format.value, dict) and format.value else "json"}


LEVELS: Mapping[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "high", "max": "high"}


def sets_thinking(request: GenerateRequest) -> bool:
    """Whether the request sets if the model is to think."""
    prompt = request.prompt
    if not isinstance(prompt, Conversation):
        return False
    return prompt.reasoning_effort is not None or "enable_thinking" in prompt.template_kwargs


def _thinking(conversation: Conversation, thinks: bool | None) -> Body:
    effort = conversation.reasoning_effort
    param = "chat_template_kwargs.enable_thinking" if effort is None else "reasoning_effort"
    enabled = conversation.template_kwargs.get("enable_thinking")
    think = LEVELS.get(effort, effort) if effort is not None else None if enabled is None else bool(enabled)
    if think is None or (thinks is False and think is False):
        return {}
    if thinks is False:
        raise UnsupportedParameter.at(param, "this model does not think")
    return {"think": think}


def _tools(conversation: Conversation, writing: Writing) -> Body:
    choice = conversation.tool_choice
    if choice.mode == "none":
        return {}
    tools = [
        {
            "name": writing.tool(tool.name),
            "description": tool.description or "",
            "parameters": tool.parameters or {"type": "object", "properties": {}},
        }
        for tool in conversation.tools
        if choice.names is None or tool.name in choice.names
    ]
    return {"tools": [{"type": "function", "function": tool} for tool in tools]} if tools else {}


def _messages(messages: tuple[Message, ...], writing: Writing) -> list[Body]:
    names = {call.id: writing.tool(call.name) for message in messages for call in message.tool_calls}
    return [_message(index, message, names, writing) for index, message in enumerate(while_wanted(messages))]


def _message(index: int, message: Message, names: Mapping[str, str], writing: Writing) -> Body:
    """`names`: id of each call in the history → name of its tool."""
    body: Body = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if images := [
        _image(part, f"messages.{index}.content.{at}")
        for at, part in enumerate(message.parts)
        if isinstance(part, Media)
    ]:
        body["images"] = images
    if message.reasoning:
        body["thinking"] = message.reasoning
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "function": {"name": writing.tool(call.name), "arguments": writing.arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        answered = message.tool_call_id or ""
        body["tool_name"] = names.get(answered) or message.name or ""
        body["tool_call_id"] = answered
    return body


def _image(media: Media, param: str) -> str:
    if media.kind != "image":
        raise UnsupportedParameter.at(param, "ollama takes images only")
    if media.data is None:
        raise UnsupportedParameter.at(param, "ollama fetches no images; send it in base64")
    return media.data
