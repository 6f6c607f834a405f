"""Resumption: an answer whose stream breaks after its beginning goes on at another replica.

There are two ways. Where nothing but the text decides how an answer goes on, the other replica gets the text
so far as the beginning of its answer. Where more does (a seed, penalties, a required form, tools), it
computes the whole answer again, and what the caller has already is left out; that takes an answer that is
always the same, so a seed or temperature 0, and ends with an error if it is not.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from headrace.errors import ProviderError
from headrace.types import (
    Conversation,
    Event,
    Finished,
    GenerateRequest,
    Message,
    ReasoningDelta,
    Sampling,
    Started,
    TextDelta,
    Texts,
    ToolCallDelta,
    Usage,
)

log = logging.getLogger(__name__)

MOST = 2  # resumptions of one answer
Way = Literal["continue", "repeat"]
Open = Callable[[GenerateRequest], Awaitable[AsyncIterator[Event]]]


def way_of(request: GenerateRequest) -> Way | None:
    """How an answer to the request can go on; None: it cannot."""
    sampling, prompt = request.sampling, request.prompt
    if request.num_choices != 1:
        return None
    has_penalties = (
        sampling.frequency_penalty
        or sampling.presence_penalty
        or sampling.repetition_penalty not in (None, 1.0)
    )
    has_tools = isinstance(prompt, Conversation) and bool(prompt.tools)
    is_plain = not (has_penalties or has_tools or request.format or sampling.logprobs is not None)
    if sampling.seed is None and is_plain and (isinstance(prompt, Conversation) or _has_an_end(prompt)):
        return "continue"
    return "repeat" if sampling.seed is not None or sampling.temperature == 0 else None


def _has_an_end(prompt: Texts) -> bool:
    """Whether a text can be appended to the prompt."""
    return isinstance(prompt.prompts[0], str) and prompt.suffix is None and not prompt.echo


@dataclass(slots=True)
class Resumption:
    """The events of one answer, from as many replicas as it takes. `open`: sends a request to one."""

    request: GenerateRequest
    way: Way
    open: Open
    _text: str = ""  # what the caller has
    _reasoning: str = ""
    _tokens: int = 0  # of the answer so far
    _num_logprobs: int = 0  # that the caller has
    _skipped_logprobs: int = 0
    _has_calls: bool = False
    _base: int = 0  # tokens of the answer that are part of the prompt now
    _skipped: list[int] = field(default_factory=lambda: [0, 0])  # characters of text and reasoning

    async def events(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """The events, from the first on. Raises ServerError."""
        number = 0
        while True:
            try:
                async for event in events:
                    for passed in self._passed(event):
                        yield passed
                return
            except ProviderError as exc:
                number += 1
                if number > MOST or not self._may_go_on:
                    raise
                log.warning("an answer goes on at another replica: %s", exc.message)
                if self._room == 0:
                    yield Finished(0, "length", Usage(0, self._tokens, is_known=False))
                    return
                events = await self._again(exc)

    @property
    def _may_go_on(self) -> bool:
        return not self._has_calls and (self.way == "repeat" or not self._reasoning)

    @property
    def _room(self) -> int | None:
        """How many tokens the answer may still have; None: there is no limit."""
        most = self.request.sampling.max_tokens
        return None if most is None or self.way == "repeat" else max(0, most - self._tokens)

    async def _again(self, error: ProviderError) -> AsyncIterator[Event]:
        """The events of the next replica. Raises the error that broke the answer off if there is none."""
        try:
            if self.way == "continue":
                self._base = self._tokens
                return await self.open(request_for_the_rest(self.request, self._text, self._tokens))
            self._skipped = [len(self._text), len(self._reasoning)]
            self._skipped_logprobs = self._num_logprobs
            self._tokens = 0
            return await self.open(self.request)
        except ProviderError as exc:
            raise error from exc

    def _passed(self, event: Event) -> list[Event]:
        """The event as the caller gets it; none if the caller has it already. Raises ProviderError."""
        if isinstance(event, ToolCallDelta):
            self._has_calls = True
        elif isinstance(event, Finished):
            if any(self._skipped):
                raise _different()
            return [replace(event, usage=self._usage(event.usage))]
        elif isinstance(event, TextDelta | ReasoningDelta):
            self._tokens += event.tokens
            return self._new(event)
        elif isinstance(event, Started) and (self._text or self._reasoning):
            return []
        return [event]

    def _new(self, event: TextDelta | ReasoningDelta) -> list[Event]:
        """What the caller does not have yet of a piece of the answer."""
        which = 0 if isinstance(event, TextDelta) else 1
        if isinstance(event, TextDelta):
            event = self._with_new_logprobs(event)
        whole, skipped = (self._text, self._reasoning)[which], self._skipped[which]
        if skipped:
            known = event.text[:skipped]
            if not whole.startswith(known, len(whole) - skipped):
                raise _different()
            self._skipped[which] -= len(known)
            if len(event.text) <= skipped and not (isinstance(event, TextDelta) and event.logprobs):
                return []
            event = replace(event, text=event.text[skipped:])
        if which == 0:
            self._text += event.text
        else:
            self._reasoning += event.text
        return [event]

    def _with_new_logprobs(self, event: TextDelta) -> TextDelta:
        """The event without the log probabilities that the caller has: pieces may be cut differently now."""
        known = min(self._skipped_logprobs, len(event.logprobs))
        self._skipped_logprobs -= known
        self._num_logprobs += len(event.logprobs) - known
        return replace(event, logprobs=event.logprobs[known:]) if known else event

    def _usage(self, usage: Usage) -> Usage:
        """The usage of the whole answer: what became part of the prompt is counted where it was written."""
        if not self._base or not usage.is_known:
            return usage
        prompt = max(0, usage.prompt_tokens - self._base)
        return replace(
            usage,
            prompt_tokens=prompt,
            completion_tokens=usage.completion_tokens + self._base,
            cached_tokens=min(usage.cached_tokens, prompt),
        )


def _different() -> ProviderError:
    return ProviderError("the answer broke off, and came out differently when it was computed again")


def request_for_the_rest(request: GenerateRequest, text: str, tokens: int) -> GenerateRequest:
    """The request for the rest of an answer of which `text`, so many tokens, is there."""
    prompt = request.prompt
    rest: Conversation | Texts
    if isinstance(prompt, Texts):
        rest = replace(prompt, prompts=(f"{prompt.prompts[0]!s}{text}",))
    elif not text:
        rest = prompt
    elif prompt.continue_final_message:
        *before, last = prompt.messages
        rest = replace(prompt, messages=(*before, replace(last, text=last.text + text, parts=())))
    else:
        messages = (*prompt.messages, Message("assistant", text))
        rest = replace(prompt, messages=messages, add_generation_prompt=False, continue_final_message=True)
    return replace(request, prompt=rest, sampling=_rest(request.sampling, tokens))


def _rest(sampling: Sampling, tokens: int) -> Sampling:
    """The sampling of the rest of an answer."""
    most = sampling.max_tokens
    return replace(
        sampling,
        max_tokens=None if most is None else max(1, most - tokens),
        min_tokens=max(0, sampling.min_tokens - tokens),
    )
