"""The JSON of /v1/chat/completions: read requests, and write answers and chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from typing_extensions import TypedDict

from headrace.collected import Choice, Collected
from headrace.dialects.anthropic import RedactedThinking, SignedThinking, thinking_block
from headrace.dialects.openai import UsageBody, usage_body
from headrace.errors import BadRequest
from headrace.types import (
    Event,
    Finished,
    GenerateRequest,
    Json,
    ModelInfo,
    ReasoningDelta,
    Started,
    TextDelta,
    Thought,
    TokenLogprob,
    ToolCallDelta,
)
from headrace.wire import tools
from headrace.wire.activations import NOTHING, SteeringAnswer, inside
from headrace.wire.conversations import check_id
from headrace.wire.forms import output_format, request_of
from headrace.wire.generation import (
    GenerationBody,
    Head,
    JsonObject,
    StreamUsage,
    UsageMember,
    dump,
    head,
    max_tokens,
    sampling,
)
from headrace.wire.messages import ConversationBody, to_conversation
from headrace.wire.parameters import RequestBody
from headrace.wire.token_logprobs import AlternativeLogprob, alternative_logprob


class ConversationName(RequestBody):
    id: str


class ChatBody(ConversationBody, GenerationBody):
    """The body of POST /v1/chat/completions."""

    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = Field(False, description="Return the logprobs of the answer's tokens.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Also of this many most probable tokens at each position."
    )
    prediction: JsonObject | None = None
    store: bool | None = False
    metadata: JsonObject | None = None
    conversation: str | ConversationName | None = None
    conversation_id: str | None = None


class TokenLogprobBody(AlternativeLogprob):
    top_logprobs: list[AlternativeLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprobBody]
    refusal: None


class ReasoningMembers(TypedDict, total=False):
    """The reasoning before an answer. A member without a value is left out."""

    reasoning_content: str
    reasoning: Annotated[str, Field(description="The same as reasoning_content.")]
    thinking_blocks: Annotated[
        list[SignedThinking | RedactedThinking],
        Field(description="Extension. The reasoning as its provider signed it, to be sent back unchanged."),
    ]


class AssistantMessage(ReasoningMembers, tools.CallMembers):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: list[Any]


class ChatChoice(SteeringAnswer):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: tools.ChatFinishReason


class ChatCompletion(TypedDict):
    """The answer when `stream` is false."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Annotated[UsageBody | None, Field(description="Null: the provider reported none.")]
    system_fingerprint: str | None


class Delta(ReasoningMembers, tools.CallDeltaMembers, total=False):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: list[Any]


class ChunkChoice(SteeringAnswer):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: tools.ChatFinishReason | None


class ChatCompletionChunk(TypedDict):
    """One event of the answer when `stream` is true; `data: [DONE]` follows the last."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[UsageBody | None]
    system_fingerprint: str | None


HEADER = "X-Conversation-ID"
NEW = "new"  # instead of a conversation's id: one that is created


def conversation_of(body: ChatBody, header: str | None) -> str | None:
    """The id of the conversation that a chat goes on with, or NEW; None: the chat is stateless. `header`: the
    value of X-Conversation-ID. Raises BadRequest.
    """
    member = body.conversation.id if isinstance(body.conversation, ConversationName) else body.conversation
    names = {HEADER: header, "conversation_id": body.conversation_id, "conversation": member}
    ids = {name: value for name, value in names.items() if value is not None}
    if not ids:
        return None
    if len(set(ids.values())) > 1:
        *others, last = ids
        sources = [f"the header {name}" if name == HEADER else name for name in (last, *others)]
        raise BadRequest(f"{' and '.join(sources)} differ", param=last)
    if (body.n or 1) > 1:
        raise BadRequest.at("n", "a conversation goes on with one answer, not several")
    if body.continue_final_message:
        raise BadRequest(
            "continue_final_message and a conversation exclude each other", param="continue_final_message"
        )
    id = next(iter(ids.values()))
    return id if id == NEW else check_id(id, "conversation")


def to_request(body: ChatBody) -> GenerateRequest:
    """The neutral request. Raises BadRequest."""
    limit = max_tokens(body)
    if body.max_completion_tokens is not None:
        if limit not in (None, body.max_completion_tokens):
            raise BadRequest("max_tokens and max_completion_tokens differ", param="max_completion_tokens")
        limit = body.max_completion_tokens
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    conversation, parameters = to_conversation(body), sampling(body, limit, num_logprobs)
    request = request_of(body, conversation, parameters, body.n or 1, output_format(body))
    return (
        replace(request, prediction=_predicted(body.prediction)) if body.prediction is not None else request
    )


def _predicted(member: JsonObject) -> str:
    """The text of a prediction: {"type": "content", "content": text, or parts with texts}."""
    content = member.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    strings = [text for text in texts if isinstance(text, str)]
    if member.get("type") != "content" or not parts or len(strings) != len(parts):
        raise BadRequest.at(
            "prediction", 'give {"type": "content", "content": a text, or parts of type text}'
        )
    return "".join(strings)


def completion(body: ChatBody, info: ModelInfo, collected: Collected, begin: Head | None = None) -> Json:
    """The whole answer. `begin`: the members from `head`, if they are fixed already."""
    legacy = bool(body.functions)
    choices: list[ChatChoice] = [
        {
            "index": index,
            "message": _message(choice, legacy=legacy),
            "logprobs": _logprobs_body(choice.logprobs) if body.logprobs else None,
            "finish_reason": tools.legacy_reason(choice.reason) if legacy else choice.reason,
            **inside(body, choice.activations, choice.receipt),
        }
        for index, choice in sorted(collected.choices.items())
    ]
    answer: ChatCompletion = {
        **(begin or head("chatcmpl", "chat.completion", info)),
        "object": "chat.completion",
        "choices": choices,
        "usage": usage_body(collected.usage),
    }
    return {**answer, **collected.own}


def _message(choice: Choice, *, legacy: bool) -> AssistantMessage:
    calls = tools.calls(choice, legacy=legacy)
    return {
        "role": "assistant",
        "content": (choice.text or None) if calls else choice.text,
        "refusal": None,
        "annotations": list(choice.annotations),
        **calls,
        **_reasoning(choice.reasoning, choice.thoughts),
    }


def _reasoning(text: str, thoughts: Sequence[Thought]) -> ReasoningMembers:
    """Reasoning as members of a message or delta, under both names that clients look for."""
    members: ReasoningMembers = {"reasoning_content": text, "reasoning": text} if text else {}
    if thoughts:
        members["thinking_blocks"] = [thinking_block(thought) for thought in thoughts]
    return members


def _logprobs_body(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    return {"content": token_logprobs(tokens), "refusal": None}


def token_logprobs(tokens: Sequence[TokenLogprob]) -> list[TokenLogprobBody]:
    return [
        {
            **alternative_logprob(token.token, token.raw, token.logprob),
            "top_logprobs": [alternative_logprob(*alternative) for alternative in token.top],
        }
        for token in tokens
    ]


class Chunks:
    """Writes the chunks of one stream, which share id, created and model. `begin`: the members from `head`,
    if they are fixed already.
    """

    def __init__(self, body: ChatBody, info: ModelInfo, begin: Head | None = None) -> None:
        begin = begin or head("chatcmpl", "chat.completion", info)
        self._head: Head = {**begin, "object": "chat.completion.chunk"}
        options = body.stream_options
        self._usage = StreamUsage(options, body.n or 1) if options is not None else None
        self._body, self._n = body, body.n or 1
        self._has_logprobs, self._legacy = bool(body.logprobs), bool(body.functions)

    def first(self) -> list[str]:
        return [
            self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
            for index in range(self._n)
        ]

    def event(self, event: Event) -> list[str]:
        if self._usage is not None:
            self._usage.push(event)
        if isinstance(event, Started):
            return []
        if isinstance(event, Finished):
            reason = tools.legacy_reason(event.reason) if self._legacy else event.reason
            has_more = event.activations or event.receipt is not None
            more = inside(self._body, event.activations, event.receipt) if has_more else NOTHING
            delta: Delta = {"annotations": list(event.annotations)} if event.annotations else {}
            return [self._chunk(event.index, delta, reason=reason, own=event.own, more=more)]
        more = inside(self._body, event.activations) if event.activations else NOTHING
        if isinstance(event, TextDelta):
            logprobs = _logprobs_body(event.logprobs) if self._has_logprobs else None
            return [self._chunk(event.index, {"content": event.text}, logprobs, more=more)]
        piece = self._delta(event)
        return [self._chunk(event.index, piece, more=more)] if piece or more else []

    def last(self) -> list[str]:
        return self._usage.last(self._head) if self._usage is not None else []

    def _delta(self, event: ReasoningDelta | ToolCallDelta) -> Delta:
        if isinstance(event, ReasoningDelta):
            thoughts = () if event.thought is None else (event.thought,)
            return cast(Delta, _reasoning(event.text, thoughts))
        return cast(Delta, tools.delta(event, legacy=self._legacy))

    def _chunk(
        self,
        index: int,
        delta: Delta,
        logprobs: ChatLogprobs | None = None,
        reason: tools.ChatFinishReason | None = None,
        own: Json | None = None,
        more: SteeringAnswer | None = None,
    ) -> str:
        usage: UsageMember = self._usage.member() if self._usage is not None else {}
        choice: ChunkChoice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
            **(more or NOTHING),
        }
        chunk: ChatCompletionChunk = {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [choice],
            **usage,
        }
        return dump({**chunk, **own} if own else chunk)
