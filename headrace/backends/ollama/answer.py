"""What Ollama answers: lines of JSON as neutral events. What is no answer raises ProviderError."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from headrace.backends.http import Upstream, message_of
from headrace.errors import ContextTooLong, ProviderError
from headrace.types import (
    Conversation,
    Embeddings,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

Body = dict[str, Any]


class Answer:
    """Reads the lines of one choice."""

    def __init__(self, upstream: Upstream, request: GenerateRequest, index: int, num_ctx: int) -> None:
        self._upstream, self._name = upstream, upstream.provider
        self._index, self._num_ctx = index, num_ctx
        prompt = request.prompt
        self._max_calls = 1 if isinstance(prompt, Conversation) and not prompt.parallel_tool_calls else None
        self._needs_logprobs = request.sampling.logprobs is not None
        self._num_calls, self._logprobs = 0, list[TokenLogprob]()
        self.is_done = False

    def read(self, line: str) -> Iterator[Event]:
        """Raises ServerError."""
        if not line.strip():
            return
        found = _loads(self._name, line)
        if found.get("error"):
            raise self._upstream.error(500, message_of(line))
        said = found.get("message", found)
        if not isinstance(said, dict):
            raise _nonsense(self._name)
        thinking = text_of(self._name, said, "thinking")
        text = text_of(self._name, said, "response" if said is found else "content")
        if thinking:
            yield ReasoningDelta(self._index, thinking)
        if text or not thinking:  # there is no place for the logprobs of thinking
            self._logprobs += [_logprob(self._name, entry) for entry in dicts(self._name, found, "logprobs")]
        if text:
            yield self._said(text)
        for call in dicts(self._name, said, "tool_calls"):
            if self._max_calls is None or self._num_calls < self._max_calls:
                yield self._called(call)
        if found.get("done") is True:
            self.is_done = True
            yield self._finished(found)

    def _said(self, text: str) -> TextDelta:
        logprobs = tuple(self._logprobs)
        if self._needs_logprobs and not logprobs:
            raise ProviderError(f"{self._name} tells no logprobs of this model")
        self._needs_logprobs = False  # a later text may be held back and come without
        self._logprobs.clear()
        return TextDelta(self._index, text, logprobs)

    def _called(self, call: Body) -> ToolCallDelta:
        function = call.get("function")
        name = text_of(self._name, function, "name") if isinstance(function, dict) else ""
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if not name or not isinstance(arguments, dict | None):
            raise _nonsense(self._name)
        number, self._num_calls = self._num_calls, self._num_calls + 1
        text = json.dumps(arguments or {}, ensure_ascii=False)
        return ToolCallDelta(self._index, number, text, f"call_{secrets.token_hex(12)}", name)

    def _finished(self, line: Body) -> Finished:
        told = text_of(self._name, line, "done_reason")
        if told in ("load", "unload"):
            raise ProviderError(f"{self._name} gave no answer: it did {told} the model")
        reason: FinishReason = "length" if told == "length" else "tool_calls" if self._num_calls else "stop"
        prompt, answer = _count(line, "prompt_eval_count"), _count(line, "eval_count")
        if prompt is not None and prompt >= self._num_ctx:
            raise ContextTooLong(f"{self._name} cut the prompt: it is longer than {self._num_ctx} tokens")
        usage = Usage(prompt or 0, answer or 0, is_known=prompt is not None and answer is not None)
        decode_s = (_count(line, "eval_duration") or 0) / 1e9
        return Finished(self._index, reason, usage, decode_s, tuple(self._logprobs))


def embeddings(name: str, found: object, num_texts: int) -> Embeddings:
    from headrace.backends.vectors import matrix

    told = found.get("embeddings") if isinstance(found, dict) else None
    try:
        vectors = matrix(told if isinstance(told, list) else ())
    except (TypeError, ValueError, OverflowError) as exc:
        raise _nonsense(name) from exc
    if len(vectors) != num_texts:
        raise _nonsense(name)
    assert isinstance(found, dict)
    return Embeddings(vectors, _count(found, "prompt_eval_count") or 0)


def context_length(shown: object) -> int | None:
    known = shown.get("model_info") if isinstance(shown, dict) else None
    for key, value in known.items() if isinstance(known, dict) else ():
        if key.endswith(".context_length") and isinstance(value, int) and value > 0:
            return value
    return None


def created_at(told: str) -> int:
    try:
        return int(datetime.fromisoformat(told).timestamp())
    except ValueError:
        return 0


def _logprob(name: str, entry: Body) -> TokenLogprob:
    top = tuple(_alternative(name, other) for other in dicts(name, entry, "top_logprobs"))
    return TokenLogprob(*_alternative(name, entry), top)


def _alternative(name: str, entry: Body) -> tuple[str, bytes, float]:
    token, logprob, raw = text_of(name, entry, "token"), entry.get("logprob"), entry.get("bytes")
    if not isinstance(logprob, int | float):
        raise _nonsense(name)
    try:
        return token, token.encode() if raw is None else bytes(raw), float(logprob)
    except (TypeError, ValueError) as exc:
        raise _nonsense(name) from exc


def _loads(name: str, line: str) -> Body:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _nonsense(name) from exc
    if not isinstance(found, dict):
        raise _nonsense(name)
    return found


def dicts(name: str, found: object, member: str) -> list[Body]:
    """A list of objects; none of it is an empty one. Raises ProviderError."""
    value = (found.get(member) or []) if isinstance(found, dict) else None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise _nonsense(name)
    return value


def text_of(name: str, found: Body, member: str) -> str:
    """A text; null is an empty one. Raises ProviderError."""
    value = found.get(member)
    if value is not None and not isinstance(value, str):
        raise _nonsense(name)
    return value or ""


def _count(found: Body, member: str) -> int | None:
    value = found.get(member)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _nonsense(name: str) -> ProviderError:
    return ProviderError(f"{name} answered with something that is no answer")
