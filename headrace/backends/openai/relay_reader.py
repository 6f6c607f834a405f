"""Inspects an answer in OpenAI's dialect while it is relayed: errors, usage, its end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.backends.answer import object_in
from headrace.backends.choice import is_broken
from headrace.backends.http import Upstream
from headrace.backends.openai.answer import error_in
from headrace.backends.openai.content import choices_in, content_of, reason_in
from headrace.backends.openai.folding import folded, unfolded
from headrace.backends.relay_reader import RelayReader
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.openai import is_done, usage_of
from headrace.dialects.values import Object, an_object, count
from headrace.errors import ProviderError, ServerError
from headrace.types import Usage

MAX_CHOICES = 4096  # bounds our bookkeeping; the provider decides about larger values of `n`


class OpenAIRelayReader(RelayReader):
    """A stream is complete with [DONE], or with a finish reason for each choice. `members`: the request's."""

    last = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")
    last_word = b"[DONE]"
    notable = (b"error", b"exception", b'"detail"', b'"code"', b'"status_code"', b"[DONE]", b"[done]")
    reason = re.compile(rb'"finish_reason"\s*:\s*"')

    part = re.compile(rb'"choices"\s*:\s*(?:\[\s*[^\]\s]|\{)')

    def __init__(self, upstream: Upstream, endpoint: str, members: Mapping[str, Any]) -> None:
        super().__init__(upstream)
        self._is_chat, self._is_generation = endpoint == "/chat/completions", endpoint != "/embeddings"
        prompt, n = members.get("prompt"), count(members.get("n")) or 1
        texts = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)
        self._num_choices = min(n * (len(prompt) if texts and isinstance(prompt, list) else 1), MAX_CHOICES)
        self._has_usage = an_object(members.get("stream_options")).get("include_usage") is True
        self._ended: set[int] = set()  # indexes of choices

    def usage(self, members: Object) -> Usage | None:
        return usage_of(members)

    def error_in(self, sent: ServerSentEvent, value: Object) -> ServerError | None:
        return error_in(self.upstream, sent, value)

    def is_end(self, sent: ServerSentEvent) -> bool:
        return is_done(sent.data)

    @property
    def member(self) -> str:
        return "choices" if self._is_generation else "data"

    def is_answer(self, value: object) -> bool:
        return bool(choices_in({"choices": value}))

    def reasons(self, members: Object) -> list[str]:
        return [reason_in(body) for body in choices_in(members)]

    def content_in(self, sent: ServerSentEvent, value: Object) -> bool:
        """Whether it has text, reasoning, a call or a finish reason."""
        bodies = choices_in(value)
        return any(reason_in(body) or content_of(self.provider, body) for body in bodies)

    def follow(self, sents: Sequence[ServerSentEvent]) -> None:
        is_end = any(map(self.is_end, sents))
        if is_end and not self.has_part:
            raise self.cut()
        self.is_over = self.is_over or is_end
        for body in (body for sent in sents for body in self._choices(sent)):
            reason = reason_in(body)
            if is_broken(reason) and not self.is_over:
                raise ProviderError(f"{self.provider} failed in the middle of its answer")
            if reason:
                self._ended.add(count(body.get("index")) or 0)
        self.is_over = self.is_over or len(self._ended) >= self._num_choices

    def _choices(self, sent: ServerSentEvent) -> list[Object]:
        try:
            return choices_in(an_object(object_in(self.provider, sent)))
        except ProviderError:
            return []

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        return folded(self.upstream, sents, num_choices=self._num_choices, is_chat=self._is_chat)

    def unfolded(self, whole: Object) -> bytes:
        return unfolded(whole, has_usage=self._has_usage)
