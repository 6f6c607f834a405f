"""Whether an answer is JSON or a stream of events, detected from its body: Content-Type is often wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from headrace.backends.http import Upstream
from headrace.backends.refusals import page
from headrace.backends.sse import ServerSentEvent, events

BLANK = b" \t\r\n\xef\xbb\xbf"  # may precede either form: white space, a byte order mark


class AnswerBody:
    """A body whose first bytes are inspected before it is read.

    `is_json`, valid after `begin`: it is one JSON value and not a stream of events.
    """

    def __init__(self, provider: str, pieces: AsyncIterator[bytes]) -> None:
        self._provider, self._pieces = provider, pieces
        self._held = b""
        self.is_json = False

    async def begin(self) -> None:
        """Wait for the first byte that is not blank. Raises ProviderError, for an HTML page, too."""
        async for piece in self._pieces:
            self._held += piece
            if beginning := self._held.lstrip(BLANK):
                if beginning[:1] == b"<":
                    raise page(self._provider)
                self.is_json = beginning[:1] in (b"{", b"[")
                return
            self._held = self._held[-4:]  # there may be a lot of white space

    async def rest(self) -> AsyncGenerator[bytes, None]:
        """Yield the whole body, from its first byte."""
        if self._held:
            yield self._held
        async for piece in self._pieces:
            yield piece


async def events_of(
    upstream: Upstream, pieces: AsyncIterator[bytes]
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield the events of a stream, or a JSON body that came instead as one event. Raises ProviderError."""
    answer_body = AnswerBody(upstream.provider, pieces)
    await answer_body.begin()
    async with aclosing(answer_body.rest()) as rest:
        if answer_body.is_json:
            whole = await upstream.joined(rest)
            yield ServerSentEvent("", whole.decode(errors="replace"), is_whole=True)
            return
        async with aclosing(events(rest)) as found:
            async for sent in found:
                yield sent


def is_heartbeat(data: str) -> bool:
    """Whether an event's data is no JSON object or list but empty, a word or a number."""
    return not data.lstrip().startswith(("{", "["))
