"""Answers that are passed on as they came. They are cut where an event ends, so that what fails later can be
told after it, and looked at only as far as it takes to tell a failure from an answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

from headrace.backends.http import MAX_LINE, Reading, Sent, Upstream, events_in
from headrace.errors import ProviderError, ServerError
from headrace.relaying import Relayed

ENDS = (b"\n\n", b"\n\r\n", b"\r\r")  # of an event
EVENT = re.compile(rb".+?(?:\n\n|\n\r\n|\r\r|\Z)", re.DOTALL)
TAIL = 256  # bytes at the end of a piece in which the last event shows
END_S = 0.05  # how long a finished stream waits for its end: then its connection can be used again
MAX_READ = 2**18  # bytes: a longer body is not parsed only to see that it is one

# What callers may see of a provider's headers: never a cookie, a name of an account, or a hop's own.
PASSED_ON = re.compile(
    "content-type|openai-processing-ms|inference-id|(x|anthropic)-ratelimit-[a-z-]+", re.IGNORECASE
)


@asynccontextmanager
async def relayed(
    upstream: Upstream,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    reading: Reading,
    *,
    streamed: bool,
) -> AsyncIterator[Relayed]:
    """Ask. Raises ServerError for whatever is no answer."""
    async with upstream.request("POST", path, body, headers) as response:
        told = _passed_on(response.headers)
        if streamed:
            stream = _Stream(upstream, reading, upstream.pieces(response))
            await stream.begin()
            yield Relayed(told, stream.rest())
        else:
            whole = await upstream.whole(response)
            _judge(whole, upstream, reading)
            yield Relayed(told, whole)


def _passed_on(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    fits = PASSED_ON.fullmatch
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items() if fits(name))


def _judge(whole: bytes, upstream: Upstream, reading: Reading) -> None:
    """Raises ServerError for a body that is an error, or no JSON object."""
    if len(whole) > MAX_READ and whole.lstrip().startswith(b"{") and whole.rstrip().endswith(b"}"):
        return
    if error := reading.error(Sent("", whole.decode(errors="replace"))):
        raise error


class _Stream:
    """A text/event-stream, as whole events."""

    def __init__(self, upstream: Upstream, reading: Reading, pieces: AsyncGenerator[bytes, None]) -> None:
        self._upstream, self._reading, self._pieces = upstream, reading, pieces
        self._whole = self._cut()
        self._begun = b""

    async def begin(self) -> None:
        """Wait for the first event that has data. Raises ServerError for an error, and if there is none."""
        async for events in self._whole:
            self._begun += events
            for first in events_in(self._begun):
                if error := self._reading.error(first):
                    raise error
                return
        raise self._upstream.no_stream(self._begun, self._reading)

    async def rest(self) -> AsyncIterator[bytes]:
        """All of it, from the first."""
        for events in self._fit(self._begun):
            yield events
        async for events in self._whole:
            for fit in self._fit(events):
                yield fit

    def _fit(self, events: bytes) -> Iterator[bytes]:
        """What may be passed on. Raises ServerError for an error that may not, as it is."""
        if b"error" not in events:
            yield events
            return
        for event in EVENT.findall(events):
            for sent in events_in(event):
                if error := self._unfit(sent):
                    raise error
            yield event

    def _unfit(self, sent: Sent) -> ServerError | None:
        try:
            error = self._reading.error(sent)
        except ProviderError:
            return None
        is_fit = error is None or (_is_told(sent) and not self._upstream.has_secret(sent.data))
        return None if is_fit else error

    async def _cut(self) -> AsyncGenerator[bytes, None]:
        """Pieces that end where an event ends; what follows the last one comes when all is over."""
        held = b""
        async for piece in self._pieces:
            if held or not piece.endswith(ENDS):
                held += piece
                at = max(held.rfind(end) + len(end) if end in held else 0 for end in ENDS)
                piece, held = held[:at], held[at:]
                if len(held) > MAX_LINE:
                    raise ProviderError(f"{self._upstream.provider} sent an event without an end")
            if piece:
                yield piece
                if self._reading.last.search(piece, max(0, len(piece) - TAIL)):
                    await self._finish()
        if held:
            yield held

    async def _finish(self) -> None:
        """What happens to the connection after an answer is nobody's concern."""
        try:
            async with asyncio.timeout(END_S):
                async for _ in self._pieces:
                    pass
        except (TimeoutError, ProviderError):
            await self._pieces.aclose()


def _is_told(sent: Sent) -> bool:
    """Whether it has the shape that clients of either dialect read."""
    error = json.loads(sent.data).get("error")
    return isinstance(error, dict) and isinstance(error.get("message"), str)
