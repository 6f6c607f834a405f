"""In which form an answer comes, told by its body: labels are often wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from headrace.backends.http import Upstream
from headrace.backends.refusals import page
from headrace.backends.sse import ServerSentEvent, events

BLANK = b" \t\r\n\xef\xbb\xbf"  # what may come before either form: white space, a mark of byte order


class Begun:
    """A body of which the beginning is known. `is_json`: it is one JSON value, and no stream of events."""

    def __init__(self, provider: str, pieces: AsyncIterator[bytes]) -> None:
        self._provider, self._pieces = provider, pieces
        self._held = b""
        self.is_json = False

    async def begin(self) -> None:
        """Wait for the first byte that tells. Raises ProviderError, for a page as well."""
        async for piece in self._pieces:
            self._held += piece
            if found := self._held.lstrip(BLANK):
                if found[:1] == b"<":
                    raise page(self._provider)
                self.is_json = found[:1] in (b"{", b"[")
                return
            self._held = self._held[-4:]  # white space may come for long

    async def rest(self) -> AsyncGenerator[bytes, None]:
        """All of it, from its beginning."""
        if self._held:
            yield self._held
        async for piece in self._pieces:
            yield piece


async def sents(upstream: Upstream, pieces: AsyncIterator[bytes]) -> AsyncGenerator[ServerSentEvent, None]:
    """The events of a stream, or, where a JSON value came instead, that. Raises ProviderError."""
    begun = Begun(upstream.provider, pieces)
    await begun.begin()
    async with aclosing(begun.rest()) as rest:
        if begun.is_json:
            whole = await upstream.joined(rest)
            yield ServerSentEvent("", whole.decode(errors="replace"), is_whole=True)
            return
        async with aclosing(events(rest)) as found:
            async for sent in found:
                yield sent


def is_heartbeat(data: str) -> bool:
    """Whether an event's data is nothing that JSON dialects say: empty, a word, a number."""
    return not data.lstrip().startswith(("{", "["))
