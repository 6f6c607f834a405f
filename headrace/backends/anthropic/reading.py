"""What an answer in Anthropic's dialect is looked at for while it is passed on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from headrace.backends.anthropic.folding import folded, unfolded
from headrace.backends.anthropic.upstream import AnthropicUpstream
from headrace.backends.forms import is_heartbeat
from headrace.backends.passthrough import Ending
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.anthropic import counts_in, usage_of
from headrace.dialects.values import an_object, parsed, word
from headrace.errors import ProviderError, ServerError
from headrace.types import Usage

STOP = re.compile(rb'(?:^|[\r\n])event: ?message_stop *[\r\n]|"type"\s*:\s*"message_stop"')
SILENT = ("text", "thinking")  # kinds of blocks whose beginning says nothing yet
SAYING = ("content_block_delta", "message_delta", "message_stop")


class AnthropicReading:
    last = re.compile(rb"(?:^|[\r\n])event: ?message_stop *[\r\n]")

    def __init__(self, upstream: AnthropicUpstream) -> None:
        self._upstream = upstream

    def usage(self, members: dict[str, Any]) -> Usage | None:
        counts = counts_in(members)
        return usage_of(counts) if counts else None

    def error(self, sent: ServerSentEvent) -> ServerError | None:
        """Raises ProviderError for what is no JSON object, unless it is a heartbeat."""
        if not sent.is_whole and is_heartbeat(sent.data):
            return self._upstream.error_of_type("", sent.data) if sent.event == "error" else None
        value = self._upstream.loads(sent.data)
        if not isinstance(value, dict):
            raise ProviderError(f"{self._upstream.provider} sent something that is no JSON object")
        if value.get("type", sent.event) != "error":
            return None
        told = an_object(value.get("error"))
        return self._upstream.error_of_type(word(told.get("type")), word(told.get("message")))

    def is_end(self, sent: ServerSentEvent) -> bool:
        return False  # message_stop follows the head of a message, never nothing

    def has_content(self, sent: ServerSentEvent) -> bool:
        """Whether a caller learns anything by it: a block's text, a call, an end."""
        try:
            value = an_object(parsed(sent.data))
        except (ValueError, RecursionError):
            return True
        kind = word(value.get("type")) or sent.event
        if kind == "content_block_start":
            return an_object(value.get("content_block")).get("type") not in SILENT
        return kind in SAYING

    def ending(self) -> Ending:
        return _Ending()

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        return folded(self._upstream, sents)

    def unfolded(self, whole: dict[str, Any]) -> bytes | None:
        """None: it is no answer."""
        return unfolded(whole) if isinstance(whole.get("content"), list) else None


class _Ending:
    """message_stop."""

    def __init__(self) -> None:
        self.is_over = False

    def tells(self, events: bytes) -> bool:
        return False

    def saw(self, events: bytes, sents: Sequence[ServerSentEvent]) -> None:
        self.is_over = self.is_over or STOP.search(events) is not None
