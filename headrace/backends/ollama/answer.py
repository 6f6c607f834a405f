"""Reads Ollama's answers: lines of JSON as neutral events, embeddings, facts about models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headrace.backends.answer_body import is_heartbeat
from headrace.backends.bodies import Budget
from headrace.backends.choice import ChoiceReading, finish_reason, is_broken
from headrace.backends.http import Upstream
from headrace.backends.openai.logprobs import logprobs_of
from headrace.backends.words import message_of
from headrace.dialects.values import an_object, count, dumped, number, parsed, word
from headrace.errors import ContextTooLong, ProviderError
from headrace.types import (
    Conversation,
    Embeddings,
    Event,
    Finished,
    GenerateRequest,
    TokenLogprob,
    Usage,
)

Body = dict[str, Any]


class Answer:
    """Reads the lines of one choice. `num_ctx`: the context length, in tokens, that Ollama was sent."""

    def __init__(self, upstream: Upstream, request: GenerateRequest, index: int, num_ctx: int) -> None:
        self._upstream, self._name = upstream, upstream.provider
        self._index, self._num_ctx = index, num_ctx
        prompt = request.prompt
        self._max_calls = 1 if isinstance(prompt, Conversation) and not prompt.parallel_tool_calls else None
        self._needs_logprobs = request.sampling.logprobs is not None
        self._said = ChoiceReading(self._name, index, Budget(self._name))
        self._num_pieces, self._logprobs = 0, list[TokenLogprob]()
        self.is_done = False

    def read(self, line: str) -> Iterator[Event]:
        """Read one line. Raises ServerError."""
        if self.is_done or is_heartbeat(line):
            return
        found = _loads(self._name, line)
        if found.get("error"):
            raise self._upstream.error(500, message_of(line))
        said = found.get("message", found)
        if not isinstance(said, dict | None):
            raise _nonsense(self._name)
        yield from self._read(found, an_object(said), "response" if said is found else "content")
        reason = word(found.get("done_reason"))
        if found.get("done") is True or (reason and "done" not in found):
            self.is_done = True
            yield from self._said.end()
            yield self._finished(found, reason)

    def _read(self, found: Body, said: Body, place: str) -> Iterator[Event]:
        thinking, text = _text(self._name, said, "thinking"), _text(self._name, said, place)
        yield from self._said.think(thinking)
        if text or not thinking:  # neutral events have no logprobs of reasoning
            self._logprobs += logprobs_of({"content": found.get("logprobs")})
        if text:
            yield from self._say(text)
        calls = said.get("tool_calls") or []
        if not isinstance(calls, list | dict):
            raise _nonsense(self._name)
        for call in [calls] if isinstance(calls, dict) else calls:
            yield from self._called(call)

    def _say(self, text: str) -> Iterator[Event]:
        logprobs = tuple(self._logprobs)
        if self._needs_logprobs and not logprobs:
            raise ProviderError(f"{self._name} tells no logprobs of this model")
        self._needs_logprobs = False  # checked once: later texts may have been buffered and lack them
        self._logprobs.clear()
        yield from self._said.say(text, logprobs)

    def _called(self, call: object) -> Iterator[Event]:
        """Read a call, which is always complete."""
        function = an_object(an_object(call).get("function"))
        name, arguments = word(function.get("name")), function.get("arguments")
        if not name or not isinstance(arguments, dict | str | None):
            raise _nonsense(self._name)
        if self._max_calls is None or self._num_pieces < self._max_calls:
            text = arguments if isinstance(arguments, str) else dumped(arguments or {})
            self._num_pieces += 1
            yield from self._said.call(self._num_pieces, "", name, text or "{}")

    def _finished(self, line: Body, done_reason: str) -> Finished:
        if done_reason in ("load", "unload"):
            raise ProviderError(f"{self._name} gave no answer: it did {done_reason} the model")
        if is_broken(done_reason):
            raise ProviderError(f"{self._name} failed in the middle of its answer")
        reason = finish_reason(done_reason, has_calls=bool(self._said.num_calls))
        prompt, answer = count(line.get("prompt_eval_count")), count(line.get("eval_count"))
        if prompt is not None and prompt >= self._num_ctx:
            # Ollama has truncated the prompt without saying how long it was
            raise ContextTooLong.of_tokens(self._num_ctx, prompt, 1, param="messages", is_estimate=True)
        usage = Usage(prompt or 0, answer or 0, is_known=prompt is not None and answer is not None)
        decode_s = (number(line.get("eval_duration")) or 0) / 1e9
        return Finished(self._index, reason, usage, decode_s, tuple(self._logprobs))


def embeddings(name: str, found: object, num_texts: int) -> Embeddings:
    from headrace.backends.vectors import matrix

    rows = found.get("embeddings") if isinstance(found, dict) else None
    try:
        vectors = matrix(rows if isinstance(rows, list) else ())
    except (TypeError, ValueError, OverflowError) as exc:
        raise _nonsense(name) from exc
    if len(vectors) != num_texts:
        raise _nonsense(name)
    assert isinstance(found, dict)
    return Embeddings(vectors, count(found.get("prompt_eval_count")) or 0)


@dataclass(frozen=True, slots=True)
class Shown:
    """Facts about a model from /api/show; None: unknown. `length`: of its context, in tokens."""

    length: int | None = None
    thinks: bool | None = None


def shown(body: object) -> Shown:
    """Read the answer of /api/show."""
    if not isinstance(body, dict):
        return Shown()
    abilities = body.get("capabilities")  # missing in older versions
    return Shown(
        _length(body.get("model_info")), "thinking" in abilities if isinstance(abilities, list) else None
    )


def _length(model_info: object) -> int | None:
    for key, value in model_info.items() if isinstance(model_info, dict) else ():
        if key.endswith(".context_length") and isinstance(value, int) and value > 0:
            return value
    return None


def created_at(modified_at: str) -> int:
    """Convert RFC 3339 to Unix seconds; 0: unknown."""
    try:
        return int(datetime.fromisoformat(modified_at).timestamp())
    except ValueError:
        return 0


def _text(name: str, found: Body, member: str) -> str:
    """A text, which may end with half of a surrogate pair; "" for null. Raises ProviderError."""
    value = found.get(member)
    if value is not None and not isinstance(value, str):
        raise _nonsense(name)
    return value or ""


def _loads(name: str, line: str) -> Body:
    try:
        found = parsed(line)
    except (ValueError, RecursionError) as exc:
        raise _nonsense(name) from exc
    if not isinstance(found, dict):
        raise _nonsense(name)
    return found


def _nonsense(name: str) -> ProviderError:
    return ProviderError(f"{name} answered with something that is no answer")
