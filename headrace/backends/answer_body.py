"""Whether an answer is JSON or a stream of events, detected from its body: Content-Type is often wrong."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from headrace.backends.http import Upstream
from headrace.backends.refusals import page
from headrace.backends.sse import ServerSentEvent, events

BOM = codecs.BOM_UTF8
BLANK = b" \t\r\n\xef\xbb\xbf"  # may precede either form: white space, a byte order mark
FAILED = re.compile("error|exception|fail", re.IGNORECASE)  # in a line of text that is no heartbeat


class AnswerBody:
    """A body whose first bytes are inspected before it is read.

    Valid after `begin`: `beginning`, the bytes that were read; `pieces`, the rest; `is_json`, whether the
    body is one JSON value and not a stream of events.
    """

    def __init__(self, provider: str, pieces: AsyncGenerator[bytes, None]) -> None:
        self._provider, self.pieces = provider, pieces
        self.beginning = b""
        self.is_json = False

    async def begin(self) -> None:
        """Wait for the first byte that is not blank. Raises ProviderError, for an HTML page, too."""
        async for piece in self.pieces:
            self.beginning += piece
            if beginning := self.beginning.lstrip(BLANK):
                if beginning[:1] == b"<":
                    raise page(self._provider)
                self.is_json = beginning[:1] in (b"{", b"[")
                if not self.is_json:
                    self.beginning = self.beginning.removeprefix(BOM)  # not all clients skip it
                return
            self.beginning = self.beginning[-4:]  # there may be a lot of white space

    async def whole(self) -> AsyncGenerator[bytes, None]:
        """Yield the whole body, from its first byte."""
        if self.beginning:
            yield self.beginning
        async for piece in self.pieces:
            yield piece


async def events_of(
    upstream: Upstream, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield the events of a stream, or a JSON body that came instead as one event. Raises ProviderError."""
    answer_body = AnswerBody(upstream.provider, pieces)
    await answer_body.begin()
    if answer_body.is_json:
        raw = await upstream.joined(pieces, beginning=answer_body.beginning)
        yield ServerSentEvent("", raw.decode(errors="replace"), is_whole=True)
        return
    async with aclosing(answer_body.whole()) as whole, aclosing(events(whole)) as found:
        async for sent in found:
            yield sent


def is_heartbeat(data: str) -> bool:
    """Whether an event's data is no JSON object or list but empty, a number or a word, unless it says that
    something failed.
    """
    return not data.lstrip().startswith(("{", "[")) and FAILED.search(data) is None
