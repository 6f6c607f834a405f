"""Reads Ollama's answers: lines of JSON as neutral events, embeddings, facts about models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

from headrace.backends.answer import object_in
from headrace.backends.body_decoding import Budget
from headrace.backends.calls import call_piece
from headrace.backends.choice import ChoiceAssembler, all_text, log_left_out, texts
from headrace.backends.error_body import is_error
from headrace.backends.http import Upstream
from headrace.backends.openai.answer import status_in
from headrace.backends.openai.content import REASONINGS, logprobs_of
from headrace.backends.refusals import page
from headrace.backends.sse import ServerSentEvent
from headrace.brackets import Objects
from headrace.dialects.openai import is_done
from headrace.dialects.values import an_object, count, dumped, number, word
from headrace.errors import ContextTooLong, ProviderError
from headrace.types import (
    Capability,
    Conversation,
    Event,
    Finished,
    GenerateRequest,
    ModelCard,
    TokenLogprob,
    Usage,
)

Body = dict[str, Any]
FIELD = "data:"  # some servers frame the lines as events of a stream


class Answer:
    """Reads the lines of one choice: an AnswerReader. `num_ctx`: the context length that Ollama was sent."""

    is_complete = False  # usage and reason are in the last line

    def __init__(self, upstream: Upstream, request: GenerateRequest, index: int, num_ctx: int) -> None:
        self._upstream, self._name, self._num_ctx = upstream, upstream.provider, num_ctx
        prompt = request.prompt
        self._max_calls = 1 if isinstance(prompt, Conversation) and not prompt.parallel_tool_calls else None
        self._needs_logprobs = request.sampling.logprobs is not None
        self._budget, self._split = Budget(self._name), Objects()
        self._choice = ChoiceAssembler(self._name, index, self._budget)
        self._num_calls, self._logprobs = 0, list[TokenLogprob]()
        self._last: Body = {}
        self.is_over = False

    def read(self, line: str) -> Iterator[Event]:
        """Read one line. Raises ServerError."""
        while line.startswith(FIELD):
            line = line.removeprefix(FIELD).lstrip()
        for line_object in () if self.is_over or is_done(line) else self._objects(line):
            if not self.is_over:
                yield from self._read_object(line_object)

    def _objects(self, line: str) -> list[Body]:
        """The objects that a line completes, nearly always one. Raises ProviderError for an HTML page."""
        if line.startswith("<"):
            raise page(self._name)
        if not self._split.is_open:
            with suppress(ProviderError):
                value = object_in(self._name, ServerSentEvent("", line))
                return [] if value is None else [value]
        self._budget.spend(len(line))
        sents = [ServerSentEvent("", text) for text in self._split.push(line)]
        return [value for sent in sents if (value := object_in(self._name, sent)) is not None]

    def _read_object(self, line: Body) -> Iterator[Event]:
        if line.get("error") or ("done" not in line and is_error(line)):
            raise self._upstream.error_of_body(status_in(line), dumped(line))
        message = line.get("message", line)
        if not isinstance(message, dict):  # a text, or parts of one
            message = {"content": message}
        yield from self._read(line, message, "response" if message is line else "content")
        self._last, self.is_over = line, _is_last(line)

    def end(self) -> Iterator[Event]:
        if not self.is_over:
            raise ProviderError(f"{self._name} ended its answer too early")
        yield from self._choice.end()
        yield self._finished(self._last)

    def _read(self, line: Body, message: Body, place: str) -> Iterator[Event]:
        """`place`: the member of `message` with the text."""
        text, thought = texts(self._name, message.get(place))
        thoughts = (all_text(self._name, message.get(name)) for name in REASONINGS)
        thinking = next(filter(None, thoughts), thought)
        yield from self._choice.add_reasoning(thinking)
        if text or not thinking:  # neutral events have no logprobs of reasoning
            self._logprobs += logprobs_of({"content": line.get("logprobs")})
        if text:
            yield from self._add_text(text)
        calls = message.get("tool_calls") or []
        for call in calls if isinstance(calls, list) else [calls]:
            if isinstance(call, dict):
                yield from self._add_call(call)
            elif call is not None:
                log_left_out(self._name, f"a call of type {type(call).__name__}")

    def _add_text(self, text: str) -> Iterator[Event]:
        logprobs = tuple(self._logprobs)
        if self._needs_logprobs and not logprobs:
            raise ProviderError(f"{self._name} returns no logprobs of this model")
        self._needs_logprobs = False  # checked once: later texts may have been buffered and lack them
        self._logprobs.clear()
        yield from self._choice.add_text(text, logprobs)

    def _add_call(self, call: Body) -> Iterator[Event]:
        """Read a call, which is always complete. Ids are not unique in all versions of Ollama."""
        piece = call_piece(call, self._num_calls + 1, is_whole=True)
        if not piece.name:
            raise ProviderError(f"{self._name} sent a call without its name")
        if self._max_calls is None or self._num_calls < self._max_calls:
            self._num_calls += 1
            whole = replace(piece, id="", arguments=piece.arguments or "{}")
            yield from self._choice.add_call(whole)

    def _finished(self, line: Body) -> Finished:
        reason = word(line.get("done_reason"))
        if reason in ("load", "unload"):
            raise ProviderError(f"{self._name} gave no answer: it did {reason} the model")
        self._choice.set_reason(reason)
        prompt, answer = count(line.get("prompt_eval_count")), count(line.get("eval_count"))
        if prompt is not None and prompt >= self._num_ctx:
            # Ollama has truncated the prompt without saying how long it was
            raise ContextTooLong.of_tokens(self._num_ctx, prompt, 1, param="messages", is_estimate=True)
        usage = Usage(prompt or 0, answer or 0, is_known=prompt is not None and answer is not None)
        decode_s = (number(line.get("eval_duration")) or 0) / 1e9
        return self._choice.finished(usage, decode_s, tuple(self._logprobs))


@dataclass(frozen=True, slots=True)
class Shown:
    """Facts about a model from /api/show; None: unknown. `length`: of its context, in tokens."""

    length: int | None = None
    thinks: bool | None = None
    card: ModelCard | None = None


def shown(body: object) -> Shown:
    """Read the answer of /api/show."""
    if not isinstance(body, dict):
        return Shown()
    abilities = body.get("capabilities")  # missing in older versions
    if not isinstance(abilities, list):
        return Shown(_length(body.get("model_info")))
    details = an_object(body.get("details"))
    card = ModelCard(
        frozenset(name for name in get_args(Capability) if name in abilities),
        word(details.get("family")) or None,
        word(details.get("quantization_level")) or None,
        template=word(body.get("template")) or None,
        format=word(details.get("format")) or None,
    )
    return Shown(_length(body.get("model_info")), "thinking" in abilities, card)


def _length(model_info: object) -> int | None:
    for key, value in model_info.items() if isinstance(model_info, dict) else ():
        if key.endswith(".context_length") and isinstance(value, int) and value > 0:
            return value
    return None


def _is_last(line: Body) -> bool:
    """Whether a line is the last: some servers write `done` as a text or a number, or leave it out."""
    done = line.get("done")
    if done is None:
        return bool(word(line.get("done_reason")))
    return done in (True, 1) or word(done).lower() == "true"
