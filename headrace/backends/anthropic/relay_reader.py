"""Inspects an answer in Anthropic's dialect while it is relayed: errors, usage, its end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from headrace.backends.answer import object_in
from headrace.backends.anthropic.answer import error_in, kind_of
from headrace.backends.anthropic.folding import folded, unfolded
from headrace.backends.choice import is_broken
from headrace.backends.http import Upstream
from headrace.backends.relay_reader import RelayReader
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.anthropic import counts_in, usage_of
from headrace.dialects.values import Object, an_object, count, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Usage

EMPTY = ("text", "thinking")  # types of blocks that start without content
WITH_CONTENT = ("content_block_delta", "message_delta", "message_stop")  # types of events


class AnthropicRelayReader(RelayReader):
    """A stream is complete with message_stop or, as for Anthropic's own clients, once a message_delta has a
    stop reason. An event's type counts, and its name only where it has none.
    """

    notable = (b"error", b"message_stop", b'"detail"', b'"code"')
    reason = re.compile(rb'"stop_reason"\s*:\s*"')
    last_word = b"message_stop"
    last = re.compile(rb'(?:^|[\r\n])event: ?message_stop *[\r\n]+data: ?\{\s*"type"\s*:\s*"message_stop"')

    part = re.compile(rb"content_block|message_delta")

    def __init__(self, upstream: Upstream, endpoint: str = "/messages") -> None:
        super().__init__(upstream)
        self._is_count = endpoint.endswith("/count_tokens")

    @property
    def member(self) -> str:
        return "input_tokens" if self._is_count else "content"

    def is_answer(self, value: object) -> bool:
        return count(value) is not None if self._is_count else isinstance(value, str | list | dict)

    def reasons(self, members: Object) -> list[str]:
        return [word(members.get("stop_reason"))]

    def is_readable(self, sent: ServerSentEvent) -> bool:
        """Clients read those events only that are named errors, and say so in their type, too."""
        return sent.event == "error" and b'"type"' in sent.data.encode() and super().is_readable(sent)

    def usage(self, members: Object) -> Usage | None:
        counts = counts_in(members)
        return usage_of(counts) if counts else None

    def error_in(self, sent: ServerSentEvent, value: Object) -> ServerError | None:
        return error_in(self.upstream, sent, value)

    def content_in(self, sent: ServerSentEvent, value: Object) -> bool:
        """Whether it has text, reasoning, a call or a stop reason."""
        kind = kind_of(value, sent)
        if kind == "content_block_start":
            return an_object(value.get("content_block")).get("type") not in EMPTY
        return kind in WITH_CONTENT

    def follow(self, sents: Sequence[ServerSentEvent]) -> None:
        self.is_over = self.is_over or any(map(self._completes, sents))

    def _completes(self, sent: ServerSentEvent) -> bool:
        try:
            value = object_in(self.provider, sent)
        except ProviderError:
            return False
        if value is None:
            return False
        kind, reason = kind_of(value, sent), word(an_object(value.get("delta")).get("stop_reason"))
        if is_broken(reason):
            raise ProviderError(f"{self.provider} failed in the middle of its answer")
        if kind == "message_stop" and not self.has_part:
            raise self.cut()
        return kind == "message_stop" or (kind == "message_delta" and bool(reason))

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        return folded(self.upstream, sents)

    def unfolded(self, whole: Object) -> bytes:
        return unfolded(whole)
