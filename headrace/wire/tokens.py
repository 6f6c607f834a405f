"""The JSON of /tokenize, /detokenize and /tokenizer_info, with which clients count tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.types import Conversation, ModelInfo, TokenizeRequest, TokenizerInfo
from headrace.wire.generation import TokenId, Variables, dump
from headrace.wire.limits import MAX_MESSAGES, MAX_TOKENS, MAX_TOOLS, at_most
from headrace.wire.messages import ChatMessage, ConversationBody, to_conversation
from headrace.wire.parameters import RequestBody
from headrace.wire.tools import ToolBody

MODEL = "A model id from /v1/models. Default: the first that is served."
PIECE = 10_000  # values that are written in one call, which holds the interpreter lock
TEXT_NAMES = ("prompt", "input", "text")


class TokenizeBody(RequestBody):
    """The body of POST /tokenize: a text under one of three names, or a conversation."""

    model: str | None = Field(None, description=MODEL)
    prompt: str | None = Field(None, description="The text.")
    input: str | None = Field(None, description="The text.")
    text: str | None = Field(None, description="The text.")
    messages: Annotated[list[ChatMessage], at_most(MAX_MESSAGES, least=1)] | None = None
    tools: Annotated[list[ToolBody], at_most(MAX_TOOLS)] | None = Field(
        None, description="With messages: the tools."
    )
    chat_template_kwargs: Variables | None = Field(None, description="With messages.")
    add_generation_prompt: bool | None = Field(
        None, description="With messages: end with the beginning of an assistant's message. Default true."
    )
    continue_final_message: bool | None = Field(
        False, description="With messages: leave the last message open."
    )
    add_special_tokens: bool | None = Field(
        None, description="BOS, if the model wants one. Default: true for a text; a template writes its own."
    )
    return_token_strs: bool | None = False


class Tokens(TypedDict):
    tokens: list[int]
    count: int
    max_model_len: Annotated[int | None, Field(description="Tokens of prompt and answer; null: unknown.")]
    token_strs: NotRequired[
        Annotated[list[str], Field(description="With return_token_strs: each token as text.")]
    ]


class DetokenizeBody(RequestBody):
    """The body of POST /detokenize."""

    model: str | None = Field(None, description=MODEL)
    tokens: Annotated[list[TokenId], at_most(MAX_TOKENS)]


class Text(TypedDict):
    prompt: str
    text: Annotated[str, Field(description="The text.")]


class TokenizerDescription(TypedDict):
    """The special tokens as text; null for those that the model does not have."""

    model: str
    eos_token: str | None
    bos_token: str | None
    pad_token: str | None
    chat_template: str | None
    vocab_size: int


def to_request(body: TokenizeBody, info: ModelInfo) -> TokenizeRequest:
    """The neutral request. Raises BadRequest unless the body has exactly one thing to tokenize."""
    prompt = _prompt(body)
    specials = isinstance(prompt, str) if body.add_special_tokens is None else body.add_special_tokens
    return TokenizeRequest(info.id, prompt, specials)


def _prompt(body: TokenizeBody) -> Conversation | str:
    names = [name for name in (*TEXT_NAMES, "messages") if getattr(body, name) is not None]
    if not names:
        problem = "prompt (or input, text or messages) is missing"
        raise BadRequest(problem, param="prompt", code="missing_required_parameter")
    if len(names) > 1:
        raise BadRequest(f"{names[1]} and {names[0]} exclude each other", param=names[1])
    if body.messages is None:
        return str(getattr(body, names[0]))
    return to_conversation(
        ConversationBody(
            messages=body.messages,
            tools=body.tools,
            chat_template_kwargs=body.chat_template_kwargs,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
        )
    )


def written(tokens: list[int], info: ModelInfo, strings: list[str] | None) -> bytes:
    """The answer as JSON text, written piece by piece so that other threads run in between."""
    rest = {"count": len(tokens), "max_model_len": info.max_model_len}
    listed: dict[str, Sequence[object]] = {
        "tokens": tokens,
        **({} if strings is None else {"token_strs": strings}),
    }
    members = [f'"{name}":[{",".join(_pieces(values))}]' for name, values in listed.items()]
    return f"{{{','.join(members)},{dump(rest)[1:]}".encode()


def _pieces(values: Sequence[object]) -> Iterator[str]:
    for start in range(0, len(values), PIECE):
        yield json.dumps(values[start : start + PIECE], ensure_ascii=False, separators=(",", ":"))[1:-1]


def text(text: str) -> Text:
    return {"prompt": text, "text": text}


def tokenizer(info: ModelInfo, described: TokenizerInfo) -> TokenizerDescription:
    return {
        "model": info.id,
        "eos_token": described.eos_token,
        "bos_token": described.bos_token,
        "pad_token": described.pad_token,
        "chat_template": described.chat_template,
        "vocab_size": described.vocabulary,
    }
