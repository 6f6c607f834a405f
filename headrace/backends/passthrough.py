"""Relays a provider's answer to a caller of the same dialect, byte for byte.

A stream is cut where an event ends, so that an error can follow any piece. Events are parsed only as far as
it takes to detect errors and answers that break off.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp

from headrace.backends.answer_body import AnswerBody, is_heartbeat
from headrace.backends.bodies import MAX_BODY
from headrace.backends.http import Upstream
from headrace.backends.passing_usage import PassingUsage
from headrace.backends.sse import MAX_LINE, ServerSentEvent, events_in
from headrace.dialects.values import an_object, is_value, whole
from headrace.errors import ProviderError, ServerError
from headrace.relay_types import Relayed
from headrace.types import Usage

ENDS = (b"\n\n", b"\n\r\n", b"\r\r")  # of an event, in bytes
LONGEST_END = 3
EVENT = re.compile(rb".+?(?:\n\n|\n\r\n|\r\r|\Z)", re.DOTALL)
# a line of data that is neither an object nor a list, but a heartbeat
NO_JSON = re.compile(rb"(?:^|[\r\n])data(?::[ \t]*(?![ \t{\[])|[\r\n])(?!\[DONE\])")
TAIL = 256  # bytes at the end of a piece that are searched for the last event
END_S = 0.05  # wait for the end of a finished stream, after which its connection can be reused
MAX_READ = 2**18  # bytes; a longer body that looks like JSON is not parsed to check it for an error

# A provider's headers that callers get: no cookies, account names or hop-by-hop headers.
PASSED_ON = re.compile(
    "openai-processing-ms|inference-id|retry-after(-ms)?|(x|anthropic)-ratelimit-[a-z0-9-]+", re.IGNORECASE
)


class Ending(Protocol):
    """Tracks whether a stream is complete (`is_over`)."""

    is_over: bool

    def tells(self, events: bytes) -> bool:
        """Whether `saw` needs these events parsed."""
        ...

    def saw(self, events: bytes, sents: Sequence[ServerSentEvent]) -> None:
        """Track events; `sents` are the same, parsed, or empty where `tells` is false. Raises ProviderError
        if they end the answer with a failure.
        """
        ...


class Reading(Protocol):
    """Reads the answer to one request in its dialect. `last` matches the last event of a stream."""

    last: re.Pattern[bytes]

    def usage(self, members: dict[str, Any]) -> Usage | None:
        """Read the members of a `usage` object; None: they are incomplete."""
        ...

    def error(self, sent: ServerSentEvent) -> ServerError | None:
        """Return the error that an event reports, if any. Raises ProviderError if it is no JSON object."""
        ...

    def is_end(self, sent: ServerSentEvent) -> bool:
        """Whether the event ends a stream, so that no answer can begin with it."""
        ...

    def has_content(self, sent: ServerSentEvent) -> bool:
        """Whether the event carries content, after which no other target may answer instead."""
        ...

    def ending(self) -> Ending: ...

    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        """Convert a stream into one JSON body. Raises ServerError."""
        ...

    def unfolded(self, whole: dict[str, Any]) -> bytes | None:
        """Convert a JSON body into a stream; None: the body is no answer."""
        ...


@asynccontextmanager
async def relayed(
    upstream: Upstream,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    reading: Reading,
    *,
    streamed: bool,
    until_content: bool = False,
) -> AsyncIterator[Relayed]:
    """Send a request and yield its answer. A stream is yielded once its first event has arrived, or, with
    `until_content`, its first event with content. Raises ServerError for an error or a body that is no
    answer.
    """
    async with upstream.request("POST", path, body, headers) as response:
        answer_headers = _passed_on(response)
        answer_body = AnswerBody(upstream.provider, upstream.pieces(response))
        usage = PassingUsage(reading.usage)
        if streamed:
            stream = Stream(upstream, reading, answer_body, until_content=until_content)
            await stream.begin()
            yield Relayed(answer_headers, stream.rest(), usage)
        else:
            await answer_body.begin()
            raw = await upstream.joined(answer_body.rest(), MAX_BODY)
            yield Relayed(answer_headers, judged(raw, answer_body.is_json, upstream, reading), usage)


def _passed_on(response: aiohttp.ClientResponse) -> tuple[tuple[bytes, bytes], ...]:
    """The headers for the caller, unchanged, without those that are not ASCII: clients cannot read them."""
    return tuple(
        (name.lower(), value)
        for name, value in response.raw_headers
        if PASSED_ON.fullmatch(name.decode("latin-1")) and value.isascii()
    )


def judged(raw: bytes, is_json: bool, upstream: Upstream, reading: Reading) -> bytes:
    """Return a JSON body unchanged, and a stream that came instead as a JSON body. Raises ServerError for an
    error, and for a body that is neither.
    """
    if not is_json:
        sents = events_in(raw)
        if any(not is_heartbeat(sent.data) for sent in sents):
            return reading.folded(sents)
    if len(raw) > MAX_READ and raw.lstrip().startswith(b"{") and raw.rstrip().endswith(b"}"):
        return raw
    if error := reading.error(ServerSentEvent("", raw.decode(errors="replace"), is_whole=True)):
        raise error
    return raw


class Stream:
    """Relays a text/event-stream in pieces that are whole events."""

    def __init__(
        self, upstream: Upstream, reading: Reading, answer_body: AnswerBody, *, until_content: bool
    ) -> None:
        self._upstream, self._reading, self._until_content = upstream, reading, until_content
        self._ending = reading.ending()
        self._answer_body, self._pieces = answer_body, answer_body.rest()
        self._whole = self._cut()
        self._first: list[bytes] = []
        self._half = b""  # bytes after the last whole event, set at the end of the stream

    async def begin(self) -> None:
        """Wait for the first event with data (or content). Raises ServerError if an error comes first, or the
        stream ends.
        """
        await self._answer_body.begin()
        if self._answer_body.is_json:
            self._first = [await self._unfolded()]
            return
        size = 0
        async for events in self._whole:
            self._first.append(events)
            size += len(events)
            if size > MAX_LINE or any(self._begins(sent) for sent in events_in(events)):
                return
        if not self._first or self._until_content or not self._is_an_event(self._half):
            raise self._upstream.not_a_stream(b"".join(self._first) + self._half, self._reading)

    async def rest(self) -> AsyncIterator[bytes]:
        """Yield the whole stream, from its first event. Raises ServerError if it breaks off."""
        for events in self._first:
            for fit in self._fit(events):
                yield fit
        async for events in self._whole:
            for fit in self._fit(events):
                yield fit
        if self._half and self._is_an_event(self._half):
            for fit in self._fit(self._half):
                yield fit if self._ending.is_over else fit + b"\n\n"
        if not self._ending.is_over:
            raise ProviderError(f"{self._upstream.provider} ended its answer in the middle")

    def _begins(self, sent: ServerSentEvent) -> bool:
        if error := self._reading.error(sent):
            raise error
        if self._reading.is_end(sent) and not self._until_content:
            raise ProviderError(f"{self._upstream.provider} ended its answer before it began")
        if self._reading.is_end(sent) or is_heartbeat(sent.data):
            return False
        return not self._until_content or self._reading.has_content(sent)

    async def _unfolded(self) -> bytes:
        """Read a JSON body that came instead of a stream, and convert it."""
        raw = await self._upstream.joined(self._pieces)
        if error := self._reading.error(ServerSentEvent("", raw.decode(errors="replace"), is_whole=True)):
            raise error
        frames = self._reading.unfolded(an_object(whole(raw)))
        if frames is None:
            raise self._upstream.not_a_stream(raw, self._reading)
        self._ending.is_over = True
        return frames

    def _fit(self, events: bytes) -> Iterator[bytes]:
        """Yield the events that the caller gets. Raises ServerError for an error event that must be
        rewritten.
        """
        if not (b"error" in events or self._ending.tells(events) or NO_JSON.search(events)):
            self._ending.saw(events, ())
            yield events
            return
        for event in EVENT.findall(events):
            sents = events_in(event)
            for sent in sents:
                if error := self._unfit(sent):
                    raise error
            if not sents or any(not self._is_skipped(sent) for sent in sents):
                self._ending.saw(event, sents)
                yield event

    def _is_skipped(self, sent: ServerSentEvent) -> bool:
        return is_heartbeat(sent.data) and sent.event != "error" and not sent.data.strip().startswith("[")

    def _unfit(self, sent: ServerSentEvent) -> ServerError | None:
        try:
            error = self._reading.error(sent)
        except ProviderError:
            return None
        if error is None or not _is_readable_error(sent) or self._upstream.repeats_secret(sent.data):
            return error
        self._ending.is_over = True  # the error is relayed as it is
        return None

    def _is_an_event(self, half: bytes) -> bool:
        """Whether a last event without a terminator is complete nevertheless."""
        sents = events_in(half)
        return bool(sents) and all(self._reading.is_end(sent) or is_value(sent.data) for sent in sents)

    async def _cut(self) -> AsyncGenerator[bytes, None]:
        """Yield pieces that end where an event ends; bytes after the last event are left in `_half`."""
        held = bytearray()
        async for piece in self._pieces:
            if held or not piece.endswith(ENDS):
                start = max(0, len(held) - LONGEST_END)
                held += piece
                at = max(held.rfind(end, start) + len(end) if end in held[start:] else 0 for end in ENDS)
                piece = bytes(held[:at])
                del held[:at]
                if len(held) > MAX_LINE:
                    raise ProviderError(f"{self._upstream.provider} sent an event without an end")
            if piece:
                yield piece
                if self._reading.last.search(piece, max(0, len(piece) - TAIL)):
                    await self._finish()
        self._half = bytes(held)

    async def _finish(self) -> None:
        """Read to the end of the connection's answer if it comes soon; later errors do not matter."""
        try:
            async with asyncio.timeout(END_S):
                async for _ in self._pieces:
                    pass
        except (TimeoutError, ProviderError):
            await self._pieces.aclose()


def _is_readable_error(sent: ServerSentEvent) -> bool:
    """Whether an error has the shape that clients of both dialects read: {"error": {"message": text}}."""
    try:
        error = an_object(whole(sent.data)).get("error")
    except (ValueError, RecursionError):
        return False
    return isinstance(error, dict) and isinstance(error.get("message"), str)
