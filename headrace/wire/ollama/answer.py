"""Writes neutral events in Ollama's dialect: lines of JSON, the last of which has counts and durations,
and vectors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NotRequired, TypeVar, cast

from typing_extensions import TypedDict

from headrace.brackets import Nesting
from headrace.collected import Choice, Collected
from headrace.dialects.anthropic import tool_input
from headrace.types import (
    Embeddings,
    Event,
    Finished,
    FinishReason,
    Json,
    ModelInfo,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from headrace.wire.generation import dump
from headrace.wire.models import rfc3339
from headrace.wire.ollama.request import AnswerBody
from headrace.wire.token_logprobs import AlternativeLogprob, alternative_logprob

NANOSECONDS = 1_000_000_000
DoneReason = Literal["stop", "length", "load", "unload", "content_filter"]
REASONS: dict[FinishReason, DoneReason] = {
    "stop": "stop", "tool_calls": "stop", "length": "length", "content_filter": "content_filter",
}  # fmt: skip


class TokenOfAnswer(AlternativeLogprob):
    top_logprobs: NotRequired[list[AlternativeLogprob]]


class FunctionOfAnswer(TypedDict):
    index: int
    name: str
    arguments: dict[str, Any]


class CallOfAnswer(TypedDict):
    id: str
    function: FunctionOfAnswer


class MessageOfAnswer(TypedDict):
    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[CallOfAnswer]]


class Figures(TypedDict, total=False):
    """The last line's members. Counts are in tokens, durations in nanoseconds; unknown ones are absent."""

    done_reason: DoneReason
    total_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


class Line(Figures):
    model: str
    created_at: str
    done: bool
    logprobs: NotRequired[list[TokenOfAnswer]]


class ChatAnswer(Line):
    """A whole answer, or one line of a stream."""

    message: MessageOfAnswer


class GenerateAnswer(Line):
    """A whole answer, or one line of a stream."""

    response: str
    thinking: NotRequired[str]


@dataclass(slots=True)
class Piece:
    """The content of one line."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[CallOfAnswer] = ()
    logprobs: Sequence[TokenLogprob] = ()


A = TypeVar("A", ChatAnswer, GenerateAnswer)


class Dialect(Generic[A]):
    """How an endpoint writes a line."""

    def write(self, line: Line, piece: Piece) -> A:
        raise NotImplementedError


class ChatDialect(Dialect[ChatAnswer]):
    def write(self, line: Line, piece: Piece) -> ChatAnswer:
        message: MessageOfAnswer = {"role": "assistant", "content": piece.text}
        if piece.thinking:
            message["thinking"] = piece.thinking
        if piece.calls:
            message["tool_calls"] = list(piece.calls)
        return {**line, "message": message}


class GenerateDialect(Dialect[GenerateAnswer]):
    def write(self, line: Line, piece: Piece) -> GenerateAnswer:
        thinking = {"thinking": piece.thinking} if piece.thinking else {}
        return cast("GenerateAnswer", {**line, "response": piece.text, **thinking})


@dataclass(slots=True)
class _Calling:
    """A call whose arguments are still coming."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    nesting: Nesting = field(default_factory=Nesting)

    def push(self, piece: str) -> None:
        self.pieces.append(piece)
        self.nesting.push(piece)


class Lines:
    """Writes one stream. A call is written when it is complete. `began`: when the request came, on the clock
    `perf_counter`.
    """

    def __init__(self, dialect: Dialect[Any], body: AnswerBody, began: float, info: ModelInfo) -> None:
        self._dialect, self._model, self._began = dialect, body.model, began
        self._has_logprobs = bool(body.logprobs)
        self._started: Started | None = None
        self._calls: dict[int, _Calling] = {}  # incomplete ones
        self._num_calls = 0

    def first(self) -> list[str]:
        return []

    def event(self, event: Event) -> list[str]:
        if isinstance(event, Started):
            self._started = event
            return []
        return [dump(line) for line in self._lines(event)]

    def last(self) -> list[str]:
        return []

    def _lines(self, event: Event) -> Iterator[Json]:
        yield from self._ended(event)
        if isinstance(event, TextDelta):
            logprobs = event.logprobs if self._has_logprobs else ()
            if event.text or logprobs:
                yield self._line(Piece(event.text, logprobs=logprobs))
        elif isinstance(event, ReasoningDelta):
            if event.text:
                yield self._line(Piece(thinking=event.text))
        elif isinstance(event, ToolCallDelta):
            self._call(event)
        elif isinstance(event, Finished):
            for index in list(self._calls):
                yield self._complete(index)
            ended = figures(event.reason, event.usage, self._started, event.decode_s, self._began)
            yield self._line(Piece(), ended)

    def _call(self, event: ToolCallDelta) -> None:
        if event.name is not None:
            self._calls[event.call] = _Calling(event.id or "", event.name)
        self._calls[event.call].push(event.arguments)

    def _ended(self, event: Event) -> Iterator[Json]:
        """The calls that are complete, now that a piece of something else comes."""
        for index, calling in list(self._calls.items()):
            is_other = not isinstance(event, ToolCallDelta) or event.call != index
            if is_other and calling.nesting.is_closed:
                yield self._complete(index)

    def _complete(self, index: int) -> Json:
        calling = self._calls.pop(index)
        call = ToolCall(calling.id, calling.name, "".join(calling.pieces))
        self._num_calls += 1
        return self._line(Piece(calls=[_call(self._num_calls - 1, call)]))

    def _line(self, piece: Piece, ended: Figures | None = None) -> Json:
        line = _line(self._model, ended, piece.logprobs)
        written: Json = self._dialect.write(line, piece)
        return written


def whole(
    dialect: Dialect[Any], body: AnswerBody, began: float, info: ModelInfo, collected: Collected
) -> Json:
    """The whole answer as one object. The parameters are those of `Lines`."""
    choice = collected.choices.get(0, Choice())
    calls = [_call(index, call) for index, call in enumerate(choice.calls)]
    usage = choice.usage or Usage(0, 0, is_known=False)
    ended = figures(choice.reason, usage, collected.started, collected.decode_s, began)
    line = _line(body.model, ended, choice.logprobs if body.logprobs else ())
    written: Json = dialect.write(line, Piece(choice.text, choice.reasoning, calls))
    return written


def done(dialect: Dialect[Any], model: str, reason: DoneReason) -> Json:
    """The answer to a body that only loads a model, or only unloads it."""
    ended: Figures = {"done_reason": reason}
    written: Json = dialect.write(_line(model, ended, ()), Piece())
    return written


def figures(
    reason: FinishReason, usage: Usage, started: Started | None, decode_s: float, began: float
) -> Figures:
    """`began`: when the request came, on the clock `perf_counter`."""
    ended: Figures = {"done_reason": REASONS[reason], "total_duration": _ns(time.perf_counter() - began)}
    if usage.is_known:
        ended |= {"prompt_eval_count": usage.prompt_tokens, "eval_count": usage.completion_tokens}
    if started is not None:
        ended["prompt_eval_duration"] = _ns(started.prefill_s)
    if decode_s:
        ended["eval_duration"] = _ns(decode_s)
    return ended


def _ns(duration_s: float) -> int:
    return int(duration_s * NANOSECONDS)


def _line(model: str, ended: Figures | None, logprobs: Sequence[TokenLogprob]) -> Line:
    line: Line = {"model": model, "created_at": rfc3339(time.time()), "done": ended is not None}
    if logprobs:
        line["logprobs"] = [_token(token) for token in logprobs]
    return {**line, **(ended or {})}


def _call(index: int, call: ToolCall) -> CallOfAnswer:
    arguments = tool_input(call.arguments)
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


def _token(token: TokenLogprob) -> TokenOfAnswer:
    top = [alternative_logprob(*alternative) for alternative in token.top]
    written = alternative_logprob(token.token, token.raw, token.logprob)
    return cast("TokenOfAnswer", {**written, **({"top_logprobs": top} if top else {})})


class EmbedAnswer(TypedDict):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(TypedDict):
    embedding: list[float]


def embed_answer(model: str, embeddings: Embeddings | None, began: float) -> bytes:
    """The answer as JSON text, written vector by vector so that other threads run in between. None: there was
    no text. `began`: when the request came, on the clock `perf_counter`.
    """
    vectors = () if embeddings is None else embeddings.vectors
    rows = ",".join(dump({"v": vector.tolist()})[5:-1] for vector in vectors)
    rest = dump(
        {
            "total_duration": int((time.perf_counter() - began) * NANOSECONDS),
            "prompt_eval_count": 0 if embeddings is None else embeddings.prompt_tokens,
        }
    )
    name = dump({"model": model})[:-1]
    return f'{name},"embeddings":[{rows}],{rest[1:]}'.encode()


def embeddings_answer(embeddings: Embeddings | None) -> EmbeddingsAnswer:
    return {"embedding": [] if embeddings is None else embeddings.vectors[0].tolist()}
