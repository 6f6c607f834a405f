"""That the tables of parameters tell the truth: every row, held against what each kind of backend sends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from headrace.backends.anthropic.request import to_body
from headrace.backends.anthropic.thinking import of_name
from headrace.backends.cerebras import CerebrasBackend
from headrace.backends.llamacpp.choices import singles
from headrace.backends.llamacpp.dialect import LlamaCppDialect
from headrace.backends.ollama.request import bodies_of, check, embed_body
from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.body import embed_body as openai_embed_body
from headrace.cli.compatibility import EVERY, WITHOUT
from headrace.config import ProviderConfig
from headrace.errors import BadRequest
from headrace.types import BackendKind, EmbedRequest, GenerateRequest
from headrace.wire import chat, completions, embeddings
from headrace.wire.anthropic import request as messages
from headrace.wire.items import to_items
from headrace.wire.parameters import KINDS, Given, judged
from headrace.wire.responses import body as responses
from headrace.wire.responses.parameters import Given as GivenResponse
from headrace.wire.responses.parameters import judged as judged_response
from headrace.wire.validation import parse
from tests.backends.samples import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, SAID, USER, Sample
from tests.backends.samples_of_responses import RESPONSES

SMALL: dict[str, Any] = {"model": "gpt-oss-120b"}
BASES: dict[str, dict[str, Any]] = {
    "chat/completions": {**SMALL, "messages": [USER]},
    "completions": {**SMALL, "prompt": "hi"},
    "embeddings": {**SMALL, "input": "hi"},
    "responses": {**SMALL, "input": "hi"},
    "messages": {**SMALL, "messages": [USER], "max_tokens": 99},
}
SAMPLES: dict[str, dict[str, Sample]] = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "responses": RESPONSES,
    "messages": MESSAGES,
}


def to_response_request(body: responses.ResponseBody) -> GenerateRequest:
    responses.check(body)
    return responses.to_request(body, to_items(body.input, "input"))


BODIES: dict[str, tuple[type[BaseModel], Callable[[Any], GenerateRequest | EmbedRequest]]] = {
    "chat/completions": (chat.ChatBody, chat.to_request),
    "completions": (completions.CompletionBody, completions.to_request),
    "embeddings": (embeddings.EmbeddingsBody, embeddings.to_request),
    "responses": (responses.ResponseBody, to_response_request),
    "messages": (messages.MessagesBody, messages.to_request),
}
# what is honoured by how the answer is read, or is done anyway; and what is refused without it
ALIKE = {
    ("anthropic", "continue_final_message"),
    ("llamacpp", "continue_final_message"),
    ("ollama", "echo"),
}
TOLD = {"tools.format"}  # named, for the model need not keep to it
BLAMED = {
    "top_logprobs": "logprobs",
    "best_of": "n",
    "enable_thinking": "chat_template_kwargs",
}  # one that comes of it
ROWS = [
    pytest.param(endpoint, name, kind, id=f"{endpoint}-{name}-{kind}")
    for endpoint, table in EVERY.items()
    for name in table
    for kind in KINDS
    if kind not in WITHOUT.get(endpoint, ())
]


def ollama(request: GenerateRequest) -> object:
    check(request)
    return bodies_of(request)


OPENAI = OpenAIBackend("p", ProviderConfig(kind="openai"), None)
CEREBRAS = CerebrasBackend("p", ProviderConfig(kind="cerebras"), None)
LLAMACPP = LlamaCppDialect("p", ProviderConfig(kind="llamacpp"), None)
GENERATING: dict[BackendKind, Callable[[GenerateRequest], object]] = {
    "engine": lambda request: request,
    "openai": OPENAI.ask,
    "cerebras": CEREBRAS.ask,
    "anthropic": lambda request: to_body(request, of_name(request.model)),
    "ollama": ollama,
    "llamacpp": lambda request: [LLAMACPP.ask(one) for one in singles(request)],
}
EMBEDDING: dict[BackendKind, Callable[[EmbedRequest], object]] = {
    "engine": lambda request: request,
    "openai": openai_embed_body,
    "ollama": embed_body,
}


def asked(
    endpoint: str, kind: BackendKind, members: dict[str, Any], *, strict: bool = False
) -> tuple[list[str], object]:
    """What is named, by path without indices, and what the provider is sent. Raises BadRequest."""
    parsed, to_request = BODIES[endpoint]
    body: Any = parse(parsed, json.dumps({**BASES[endpoint], **members}).encode())
    named = (
        judged_response(GivenResponse(body), kind, strict=strict)
        if isinstance(body, responses.ResponseBody)
        else judged(Given(body, EVERY[endpoint]), kind, strict=strict)
    )
    request = to_request(body)
    sent = GENERATING[kind](request) if isinstance(request, GenerateRequest) else EMBEDDING[kind](request)
    return [".".join(step for step in name.split(".") if not step.isdigit()) for name in named], sent


@pytest.mark.parametrize(("endpoint", "name", "kind"), ROWS)
def test_a_fate_is_what_the_table_says(endpoint: str, name: str, kind: BackendKind) -> None:
    before, more = SAMPLES[endpoint][name]
    fate = EVERY[endpoint][name].fates[kind]
    if fate == "refused":
        with pytest.raises(BadRequest) as caught:
            asked(endpoint, kind, {**before, **more})
        assert (caught.value.param or "").split(".")[0] in (name.split(".")[0], BLAMED.get(name))
        return
    named, sent = asked(endpoint, kind, {**before, **more})
    assert named == ([name] if fate in ("ignored", "dropped") else [])
    if fate == "dropped":
        with pytest.raises(BadRequest):
            asked(endpoint, kind, {**before, **more}, strict=True)
    elif fate == "ignored":
        asked(endpoint, kind, {**before, **more}, strict=True)
    if kind != "engine" and (kind, name) not in ALIKE and name not in TOLD and fate != "honoured":
        assert (sent != asked(endpoint, kind, before)[1]) is (fate == "sent")


@pytest.mark.parametrize("kind", ["anthropic", "ollama"])
def test_what_is_said_elsewhere_is_not_dropped(kind: BackendKind) -> None:
    call = {"name": "f", "arguments": "{}"}
    calling = {"role": "assistant", "content": None, "function_call": call}
    result = {"role": "function", "name": "f", "content": "1"}
    assert asked("chat/completions", kind, {"messages": [USER, calling, result]}, strict=True)[0] == []
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    thought = {**SAID, "reasoning": "hm", "reasoning_content": "hm", "thinking_blocks": [block]}
    named = ["messages.thinking_blocks.signature"] if kind == "ollama" else []
    assert asked("chat/completions", kind, {"messages": [USER, thought, USER]})[0] == named


def test_every_parameter_has_a_sample() -> None:
    assert {endpoint: set(rows) for endpoint, rows in SAMPLES.items()} == {
        endpoint: set(table) for endpoint, table in EVERY.items()
    }
