"""Reads the chunks of one answer in OpenAI's dialect as neutral events. Providers vary the dialect: text
under several names, calls without an index, usage in any chunk and any shape, errors in the middle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from headrace.backends.answer_body import is_heartbeat
from headrace.backends.bodies import Budget
from headrace.backends.choice import ChoiceReading, finish_reason, is_broken
from headrace.backends.http import Upstream
from headrace.backends.openai.logprobs import logprobs_of
from headrace.backends.openai.parts import said_in
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.openai import DONE, usage_of
from headrace.dialects.values import Object, count, dumped, parsed, valid, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Event, Finished, TokenLogprob, Usage

# types and codes of errors inside a stream, which have no status
STATUSES = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "insufficient_quota": 429,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "overloaded_error": 503,
    "server_is_overloaded": 503,
    "timeout_error": 504,
}


class _Choice:
    def __init__(self, provider: str, index: int, budget: Budget) -> None:
        self.said = ChoiceReading(provider, index, budget)
        self.is_begun = False  # a chunk for this choice has arrived
        self.reason: str | None = None  # why it ended, in the provider's words
        self.stop: str | None = None


class Answer:
    """Reads one answer. `num_choices`: the number that the request asked for; `kept`: members of chunks that
    the neutral answer keeps.
    """

    def __init__(self, upstream: Upstream, num_choices: int, *, kept: tuple[str, ...] = ()) -> None:
        self._upstream, self._kept = upstream, kept
        self._own: Object = {}
        budget = Budget(upstream.provider)
        self._choices = [_Choice(upstream.provider, index, budget) for index in range(num_choices)]
        self._usage: Usage | None = None
        self.is_over = False  # [DONE] or a whole body has arrived

    @property
    def is_complete(self) -> bool:
        """Whether every choice has a finish reason; the usage may still follow."""
        return all(choice.reason is not None for choice in self._choices)

    def read(self, sent: ServerSentEvent) -> list[Event]:
        """Read one event. Raises ServerError for an error of the provider, and ProviderError for an event
        that cannot be read, unless the answer is complete.
        """
        if self.is_over:
            return []
        if sent.data.strip().startswith(DONE):
            self._ended()
            return []
        try:
            chunk = chunk_in(self._upstream, sent)
            if chunk is None:
                return []
            if error := error_in(self._upstream, sent, chunk):
                raise error
            found = list(self._events(chunk))
        except (ProviderError, RecursionError) as exc:
            if self.is_complete:
                return []  # the caller has the whole answer; what follows it does not matter
            raise exc if isinstance(exc, ProviderError) else _nonsense(self._upstream) from exc
        if sent.is_whole:
            self._ended()
        return found

    def end(self) -> list[Event]:
        """Return text that was held back, and one Finished per choice. The provider's usage covers all
        choices together; the first one gets it. Raises ProviderError if the answer is not complete.
        """
        if not self.is_complete:
            raise ProviderError(f"{self._upstream.provider} ended its answer in the middle")
        found = [event for choice in self._choices for event in choice.said.end()]
        rest = Usage(0, 0, is_known=self._usage is not None)
        for index, choice in enumerate(self._choices):
            reason = finish_reason(choice.reason or "", has_calls=bool(choice.said.num_calls))
            usage, own = (rest, {}) if index else (self._usage or rest, self._own)
            found.append(Finished(index, reason, usage, stop=choice.stop, own=own))
        return found

    def _ended(self) -> None:
        """Mark the answer as over. Some providers leave out the finish reason; it becomes "stop"."""
        self.is_over = True
        for choice in self._choices:
            if choice.is_begun and choice.reason is None:
                choice.reason = "stop"

    def _events(self, chunk: Object) -> Iterator[Event]:
        self._own |= {name: json.loads(dumped(chunk[name])) for name in self._kept if name in chunk}
        self._usage = usage_of(chunk.get("usage")) or self._usage
        choices = chunk.get("choices")
        if isinstance(choices, dict):
            choices = [choices]
        if choices and not isinstance(choices, list):
            raise _nonsense(self._upstream)
        for body in choices or ():
            if isinstance(body, dict):
                yield from self._choice(body)
            elif body is not None:
                raise _nonsense(self._upstream)

    def _choice(self, body: Object) -> Iterator[Event]:
        choice = self._whose(body)
        said = said_in(self._upstream.provider, body, may_repeat=choice is None or choice.said.has_said)
        if choice is None:
            if said.is_something and not self.is_complete:
                raise ProviderError(f"{self._upstream.provider} sent a choice that it was not asked for")
            return
        choice.is_begun = True
        if said.reasoning:
            yield from choice.said.think(said.reasoning)
        logprobs: tuple[TokenLogprob, ...] = logprobs_of(body.get("logprobs"))
        yield from choice.said.say(said.text, logprobs)
        for piece in said.calls:
            yield from choice.said.call(piece.index, piece.id, piece.name, piece.arguments)
        self._set_reason(choice, body)

    def _whose(self, body: Object) -> _Choice | None:
        """The choice that a chunk's choice belongs to; None: one that was not requested."""
        index = count(body.get("index"))
        if index is None:
            index = 0 if len(self._choices) == 1 else -1
        return self._choices[index] if 0 <= index < len(self._choices) else None

    def _set_reason(self, choice: _Choice, body: Object) -> None:
        """Record the finish reason, if there is one. Raises ProviderError if it reports a failure."""
        reason = word(body.get("finish_reason"))
        if not reason or reason == "null":
            return
        if is_broken(reason):
            raise ProviderError(f"{self._upstream.provider} failed in the middle of its answer")
        choice.reason = choice.reason or reason
        stop = body.get("stop_reason")  # vLLM's: the stop string, or the id of a stop token
        choice.stop = valid(stop) if isinstance(stop, str) else choice.stop


def chunk_in(upstream: Upstream, sent: ServerSentEvent) -> Object | None:
    """Parse an event's chunk; None: a heartbeat. Raises ProviderError for JSON that is no object."""
    if not sent.is_whole and is_heartbeat(sent.data):
        return {} if sent.event == "error" else None
    try:
        chunk: Any = parsed(sent.data)
    except (ValueError, RecursionError) as exc:
        if sent.is_last:
            return None  # the stream broke off within this event; `end` reports it
        raise _nonsense(upstream) from exc
    if not isinstance(chunk, dict):
        raise _nonsense(upstream)
    return chunk


def error_in(upstream: Upstream, sent: ServerSentEvent, chunk: Object) -> ServerError | None:
    """The provider's error in a chunk, if there is one."""
    error = chunk.get("error")
    if sent.event != "error" and not error:
        return None
    body = error if isinstance(error, dict) else chunk
    named = (body.get("code"), body.get("status"), body.get("status_code"), body.get("type"))
    return upstream.error_of_body(next(filter(None, map(_status, named)), 500), sent.data)


def _nonsense(upstream: Upstream) -> ProviderError:
    return ProviderError(f"{upstream.provider} sent something that is no chunk of an answer")


def _status(code: object) -> int | None:
    """The status for an error's code or type."""
    if isinstance(code, str) and not (code.isascii() and code.isdecimal()):
        return STATUSES.get(code)
    status = count(code)
    return status if status is not None and 400 <= status < 600 else None
