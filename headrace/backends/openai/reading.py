"""Inspects an answer in OpenAI's dialect while it is relayed: errors, usage, its end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.backends.choice import is_broken
from headrace.backends.http import Upstream
from headrace.backends.openai.answer import chunk_in, error_in
from headrace.backends.openai.folding import folded, unfolded
from headrace.backends.openai.parts import said_in
from headrace.backends.passthrough import Ending
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.openai import DONE, usage_of
from headrace.dialects.values import count, objects, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Usage

FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
DONE_LINE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
MAX_CHOICES = 4096  # bounds our bookkeeping; the provider decides about larger values of `n`


class OpenAIReading:
    """The Reading of OpenAI's dialect, for the endpoint and body members of one request."""

    last = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")

    def __init__(self, upstream: Upstream, endpoint: str, members: Mapping[str, Any]) -> None:
        self._upstream = upstream
        self._is_chat = endpoint == "/chat/completions"
        prompt, n = members.get("prompt"), count(members.get("n")) or 1
        texts = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)
        self._num_choices = min(n * (len(prompt) if texts and isinstance(prompt, list) else 1), MAX_CHOICES)
        options = members.get("stream_options")
        self._has_usage = isinstance(options, dict) and options.get("include_usage") is True

    def usage(self, members: dict[str, Any]) -> Usage | None:
        return usage_of(members)

    def error(self, sent: ServerSentEvent) -> ServerError | None:
        """Raises ProviderError for an event that is neither a JSON object nor a heartbeat."""
        chunk = chunk_in(self._upstream, sent)
        return None if chunk is None else error_in(self._upstream, sent, chunk)

    def is_end(self, sent: ServerSentEvent) -> bool:
        return sent.data.strip().startswith(DONE)

    def has_content(self, sent: ServerSentEvent) -> bool:
        """Whether an event has text, reasoning, a call or a finish reason."""
        try:
            chunk = chunk_in(self._upstream, sent) or {}
            bodies = objects(chunk.get("choices"))
            said = [said_in(self._upstream.provider, body, may_repeat=False) for body in bodies]
        except ProviderError:
            return True
        return any(one.is_something for one in said) or any(body.get("finish_reason") for body in bodies)

    def ending(self) -> Ending:
        return _Ending(self._upstream, self._num_choices)

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        return folded(self._upstream, sents, num_choices=self._num_choices, is_chat=self._is_chat)

    def unfolded(self, whole: dict[str, Any]) -> bytes | None:
        """None: `whole` is no answer."""
        return unfolded(whole, has_usage=self._has_usage) if objects(whole.get("choices")) else None


class _Ending:
    """A stream is complete with [DONE], or with a finish reason for each choice."""

    def __init__(self, upstream: Upstream, num_choices: int) -> None:
        self._upstream, self._num_choices = upstream, num_choices
        self._ended: set[int] = set()
        self.is_over = False

    def tells(self, events: bytes) -> bool:
        return FINISH.search(events) is not None

    def saw(self, events: bytes, sents: Sequence[ServerSentEvent]) -> None:
        self.is_over = self.is_over or DONE_LINE.search(events) is not None
        for sent in sents:
            for body in self._choices(sent):
                reason = word(body.get("finish_reason"))
                if is_broken(reason) and not self.is_over:
                    raise ProviderError(f"{self._upstream.provider} failed in the middle of its answer")
                if reason and reason != "null":
                    self._ended.add(count(body.get("index")) or 0)
        self.is_over = self.is_over or len(self._ended) >= self._num_choices

    def _choices(self, sent: ServerSentEvent) -> list[dict[str, Any]]:
        try:
            chunk = chunk_in(self._upstream, sent)
        except ProviderError:
            return []
        return objects((chunk or {}).get("choices"))
