"""The chunks of one answer in OpenAI's dialect as neutral events. What providers make of the dialect differs:
calls without index, usage anywhere, errors in the middle.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from headrace.backends.http import Sent, Upstream
from headrace.errors import ProviderError, ServerError
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

REASONS: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
# errors in the middle of an answer that name no status
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


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    number: int | None = None  # among the choice's calls, once its name is known
    held: str = ""  # arguments that came before the name


@dataclass(slots=True)
class _Choice:
    reason: FinishReason | None = None
    stop: str | None = None
    calls: list[_Call] = field(default_factory=list)
    at: dict[int | None, _Call] = field(default_factory=dict)  # by the provider's index
    num_told: int = 0

    def call(self, index: int | None, id: str) -> _Call:
        """Whose piece this is. A new id begins a new call, whatever the index says."""
        call = self.at.get(index)
        if call is None or (id and call.id and id != call.id):
            self.at[index] = call = _Call()
            self.calls.append(call)
        return call


class Answer:
    """`num_choices`: how many the request asked for; `kept`: members of chunks that the answer gets, too."""

    def __init__(self, upstream: Upstream, num_choices: int, *, kept: tuple[str, ...] = ()) -> None:
        self._upstream, self._kept = upstream, kept
        self._own: dict[str, Any] = {}
        self._choices = {index: _Choice() for index in range(num_choices)}
        self._usage: Usage | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended; the usage may still follow."""
        return all(choice.reason is not None for choice in self._choices.values())

    def read(self, sent: Sent) -> list[Event]:
        """Raises ServerError: the provider's own error, or ProviderError for what is no chunk."""
        chunk = _loaded(self._upstream, sent)
        if error := _error(self._upstream, sent, chunk):
            raise error
        try:
            self._own |= {name: chunk[name] for name in self._kept if name in chunk}
            if chunk.get("usage"):
                self._usage = _usage(chunk["usage"])
            return [event for choice in chunk.get("choices") or () for event in self._choice(choice)]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise self._nonsense() from exc

    def end(self) -> list[Finished]:
        """One of each choice. The provider counts all choices as one, and so the first has it all. Raises
        ProviderError when the answer is not complete.
        """
        if not self.is_complete:
            raise ProviderError(f"{self._upstream.provider} ended its answer in the middle")
        rest = Usage(0, 0, is_known=self._usage is not None)
        return [
            Finished(index, choice.reason or "stop", rest, stop=choice.stop)
            if index
            else Finished(0, choice.reason or "stop", self._usage or rest, stop=choice.stop, own=self._own)
            for index, choice in self._choices.items()
        ]

    def _choice(self, body: dict[str, Any]) -> Iterator[Event]:
        index = body.get("index", 0)
        choice = self._choices[index]
        delta = body.get("delta") or {}
        if thought := _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")):
            yield ReasoningDelta(index, thought)
        # what OpenAI calls a refusal is what the model says instead of the answer: text
        text = _text(body.get("text")) + _text(delta.get("content")) + _text(delta.get("refusal"))
        logprobs = _logprobs(body.get("logprobs") or {})
        if text or logprobs:
            yield TextDelta(index, text, logprobs)
        for piece in delta.get("tool_calls") or ():
            yield from _call(index, choice, piece)
        reason = _text(body.get("finish_reason"))
        if reason == "error":
            raise ProviderError(f"{self._upstream.provider} failed in the middle of its answer")
        if reason:
            choice.reason = REASONS.get(reason, "stop")
            met = body.get("stop_reason")  # vLLM's: a stop string, or the id of a token
            choice.stop = met if isinstance(met, str) else None

    def _nonsense(self) -> ProviderError:
        return _nonsense(self._upstream)


class OpenAIReading:
    """What an answer that is passed on is looked at for."""

    last = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def error(self, sent: Sent) -> ServerError | None:
        """Raises ProviderError for what is no JSON object."""
        return _error(self._upstream, sent, _loaded(self._upstream, sent))


def _loaded(upstream: Upstream, sent: Sent) -> dict[str, Any]:
    chunk = upstream.loads(sent.data)
    if not isinstance(chunk, dict):
        raise _nonsense(upstream)
    return chunk


def _error(upstream: Upstream, sent: Sent, chunk: dict[str, Any]) -> ServerError | None:
    """The provider's own, if the chunk tells one."""
    error = chunk.get("error")
    if sent.event != "error" and not error:
        return None
    body = error if isinstance(error, dict) else chunk
    named = (body.get("code"), body.get("status"), body.get("status_code"), body.get("type"))
    return upstream.told(next(filter(None, map(_status, named)), 500), sent.data)


def _nonsense(upstream: Upstream) -> ProviderError:
    return ProviderError(f"{upstream.provider} sent something that is no chunk of an answer")


def _call(index: int, choice: _Choice, piece: dict[str, Any]) -> Iterator[ToolCallDelta]:
    """Nothing, until the call's name is known."""
    function = piece.get("function") or {}
    id, name = _text(piece.get("id")), _text(function.get("name"))
    call = choice.call(piece.get("index"), id)
    call.id, call.name = call.id or id, call.name or name
    given = function.get("arguments")
    call.held += json.dumps(given) if isinstance(given, dict) else _text(given)
    if call.number is not None:
        if call.held:
            yield ToolCallDelta(index, call.number, call.held)
    elif call.name:
        call.id = call.id or f"call_{secrets.token_hex(12)}"
        call.number, choice.num_told = choice.num_told, choice.num_told + 1
        yield ToolCallDelta(index, call.number, call.held, call.id, call.name)
    else:
        return
    call.held = ""


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number of tokens")
    return value


def _usage(body: dict[str, Any]) -> Usage:
    prompt = body.get("prompt_tokens_details") or {}
    return Usage(
        _number(body["prompt_tokens"]),
        _number(body.get("completion_tokens")),
        _number(prompt.get("cached_tokens")),
        _number((body.get("completion_tokens_details") or {}).get("reasoning_tokens")),
        _number(prompt.get("cache_write_tokens")),
    )


def _status(code: object) -> int | None:
    """The status that an error's code or type stands for."""
    if isinstance(code, str) and not code.isdecimal():
        return STATUSES.get(code)
    number = int(code) if isinstance(code, int | str) else 0
    return number if 400 <= number < 600 else None


def _logprobs(body: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    """In chat's form, or in that of text completions: lists beside each other."""
    if "tokens" not in body:
        return tuple(
            TokenLogprob(*_token(token), tuple(_token(other) for other in token.get("top_logprobs") or ()))
            for token in body.get("content") or ()
        )
    tokens = body["tokens"] or ()
    tops = body.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(
            _text(token),
            token.encode(),
            None if logprob is None else float(logprob),
            tuple((text, text.encode(), float(value)) for text, value in (top or {}).items()),
        )
        for token, logprob, top in zip(tokens, body["token_logprobs"], tops, strict=True)
    )


def _token(body: dict[str, Any]) -> tuple[str, bytes, float]:
    token, raw = _text(body["token"]), body.get("bytes")
    return token, token.encode() if raw is None else bytes(raw), float(body["logprob"])
