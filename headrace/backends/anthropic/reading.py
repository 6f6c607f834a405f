"""Inspects an answer in Anthropic's dialect while it is relayed: errors, usage, its end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from headrace.backends.answer_body import is_heartbeat
from headrace.backends.anthropic.folding import folded, unfolded
from headrace.backends.anthropic.upstream import AnthropicUpstream
from headrace.backends.passthrough import Ending
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.anthropic import counts_in, usage_of
from headrace.dialects.values import an_object, parsed, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Usage

STOP = re.compile(rb'(?:^|[\r\n])event: ?message_stop *[\r\n]|"type"\s*:\s*"message_stop"')
EMPTY = ("text", "thinking")  # types of blocks that start without content
WITH_CONTENT = ("content_block_delta", "message_delta", "message_stop")  # types of events


class AnthropicReading:
    last = re.compile(rb"(?:^|[\r\n])event: ?message_stop *[\r\n]")

    def __init__(self, upstream: AnthropicUpstream) -> None:
        self._upstream = upstream

    def usage(self, members: dict[str, Any]) -> Usage | None:
        counts = counts_in(members)
        return usage_of(counts) if counts else None

    def error(self, sent: ServerSentEvent) -> ServerError | None:
        """Raises ProviderError for an event that is neither a JSON object nor a heartbeat."""
        if not sent.is_whole and is_heartbeat(sent.data):
            return self._upstream.error_of_type("", sent.data) if sent.event == "error" else None
        value = self._upstream.loads(sent.data)
        if not isinstance(value, dict):
            raise ProviderError(f"{self._upstream.provider} sent something that is no JSON object")
        if value.get("type", sent.event) != "error":
            return None
        error = an_object(value.get("error"))
        return self._upstream.error_of_type(word(error.get("type")), word(error.get("message")))

    def is_end(self, sent: ServerSentEvent) -> bool:
        return False  # message_stop never comes first

    def has_content(self, sent: ServerSentEvent) -> bool:
        """Whether an event has text, reasoning, a call or a stop reason."""
        try:
            value = an_object(parsed(sent.data))
        except (ValueError, RecursionError):
            return True
        kind = word(value.get("type")) or sent.event
        if kind == "content_block_start":
            return an_object(value.get("content_block")).get("type") not in EMPTY
        return kind in WITH_CONTENT

    def ending(self) -> Ending:
        return _Ending()

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        return folded(self._upstream, sents)

    def unfolded(self, whole: dict[str, Any]) -> bytes | None:
        """None: `whole` is no answer."""
        return unfolded(whole) if isinstance(whole.get("content"), list) else None


class _Ending:
    """A stream is complete with message_stop."""

    def __init__(self) -> None:
        self.is_over = False

    def tells(self, events: bytes) -> bool:
        return False

    def saw(self, events: bytes, sents: Sequence[ServerSentEvent]) -> None:
        self.is_over = self.is_over or STOP.search(events) is not None
