"""Relays a provider's answer to a caller of the same dialect, byte for byte.

A stream is cut where an event ends, so that an error can follow any piece. Events are parsed only as far as
it takes to detect errors and answers that break off.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import aiohttp

from headrace.backends.answer import AnswerBody, drain, is_heartbeat, object_in, sents_of
from headrace.backends.error_body import is_page
from headrace.backends.refusals import LIMITS, hint, page
from headrace.backends.relay_reader import OPEN_END, TAIL, USAGE, RelayReader, UsageScan, outline
from headrace.backends.sse import MAX_LINE, ServerSentEvent, events_in
from headrace.dialects.openai import DONE
from headrace.dialects.values import Object, an_object, is_value, may_be_lax, strict, valid_value, whole
from headrace.errors import ProviderError, ServerError
from headrace.finite import dumps
from headrace.offload import aside
from headrace.relay_types import Relayed, RelayRequest
from headrace.types import Usage

ENDS = (b"\n\n", b"\n\r\n", b"\r\r")  # of an event, in bytes
LONGEST_END = 3
EVENT = re.compile(rb".+?(?:\n\n|\n\r\n|\r\r|\Z)", re.DOTALL)
# a line of data that is no object, but a heartbeat or a list
NO_JSON = re.compile(rb"(?:^|[\r\n])data(?::[ \t]*(?![ \t{])|[\r\n])(?!\[DONE\])")
ODD_LINE = re.compile(rb"\ndata(?!: ?\{)")  # what NO_JSON finds where lines end with \n, and little else
DATA = re.compile(rb"(?:^|(?<=[\r\n]))data:[^\r\n]*")
PLAIN_END = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
END = f"data: {DONE}\n\n".encode()
MAX_READ = 2**18  # bytes; of a longer body only the small members are parsed

# A provider's headers that callers get: no cookies, account names or hop-by-hop headers.
PASSED_ON = re.compile(f"openai-processing-ms|inference-id|retry-after|{LIMITS.pattern}", re.IGNORECASE)


@asynccontextmanager
async def open_relay(
    reader: RelayReader,
    request: RelayRequest,
    correct: Callable[[], tuple[bytes, tuple[str, ...]]],
    *,
    path: str,
    headers: Mapping[str, str],
    until_content: bool,
) -> AsyncIterator[Relayed]:
    """Send a request to `path` and yield its answer. `correct` returns the body as the provider accepts it,
    and the paths of members that were left out or changed. A stream is yielded once its first event has
    arrived, or, with `until_content`, its first event with content. Raises ServerError for an error or a body
    that is no answer.
    """
    upstream = reader.upstream
    body, ignored = await aside(request.body.size, correct)
    async with upstream.request("POST", path, body, headers) as response:
        answer_headers = _passed_on(response)
        answer_body = AnswerBody(upstream.provider, upstream.pieces(response))
        if request.is_streamed:
            stream = Stream(reader, answer_body, until_content=until_content, hides_usage=request.adds_usage)
            await stream.begin()
            yield Relayed(answer_headers, stream.rest(), stream.scan.usage, stream.is_over, ignored)
        else:
            await answer_body.begin()
            pieces = answer_body.pieces
            if not answer_body.is_json:
                pieces = _to_the_end(answer_body.whole(), reader)
            raw = await upstream.joined(
                pieces, beginning=answer_body.beginning if answer_body.is_json else b""
            )
            read = partial(as_json, raw, reader, is_json=answer_body.is_json)
            raw, usage = await aside(len(raw), read)
            yield Relayed(answer_headers, raw, lambda: usage, lambda: True, ignored)


async def _to_the_end(
    pieces: AsyncGenerator[bytes, None], reader: RelayReader
) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a stream up to its last event: the connection may stay open after it, or break."""
    tail = b""
    async for piece in pieces:
        yield piece
        tail = (tail + piece[-TAIL:])[-TAIL:]
        if reader.ends_with_last(tail):
            await drain(pieces)


def _passed_on(response: aiohttp.ClientResponse) -> tuple[tuple[bytes, bytes], ...]:
    """The headers for the caller, without those that are not printable ASCII: they cannot be sent on."""
    raw = ((name.decode("latin-1").lower(), value) for name, value in response.raw_headers)
    pairs = ((name, value.decode("latin-1")) for name, value in raw if PASSED_ON.fullmatch(name))
    hints = ((name, hint(name, value)) for name, value in pairs)
    return tuple((name.encode(), value.encode()) for name, value in hints if value is not None)


def as_json(raw: bytes, reader: RelayReader, *, is_json: bool) -> tuple[bytes, Usage | None]:
    """Return a JSON body unchanged, and a stream that came instead as a JSON body, with its usage. Raises
    ServerError for an error, and for a body that is neither.
    """
    sents = sents_of(raw) if is_json else events_in(raw)
    if any(not (sent.is_whole or is_heartbeat(sent.data)) for sent in sents):
        raw = reader.folded(sents)
    sent, members = _members(raw, reader.provider)
    if raw.lstrip()[:1] == b"[":
        raw = dumps(members).encode()
    if error := reader.error_in(sent, members):
        raise error
    reader.check_whole(members, is_outline=len(raw) > MAX_READ)
    usage = an_object(members.get("usage"))
    if may_be_lax(raw) or (len(raw) <= MAX_READ and b"\n" in raw.strip()):
        raw = strict(raw)
    return _as_utf8(raw), reader.usage(usage) if usage else None


def _as_utf8(raw: bytes) -> bytes:
    """Replace bytes that are no UTF-8, which some clients fail at."""
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            return raw.decode(errors="replace").encode()
    return raw


def _members(raw: bytes, provider: str) -> tuple[ServerSentEvent, Object]:
    """A JSON body as an event, and its members. Raises ProviderError if it is none, or breaks off."""
    if len(raw) <= MAX_READ:
        sent = _whole(raw)
        return sent, object_in(provider, sent) or {}
    try:
        members = outline(raw)
    except (ValueError, RecursionError) as exc:
        raise ProviderError(f"{provider} sent something that is no JSON object") from exc
    return _whole(dumps(members).encode()), members


def _whole(raw: bytes) -> ServerSentEvent:
    return ServerSentEvent("", raw.decode(errors="replace"), is_whole=True)


class Stream:
    """Relays a text/event-stream in pieces that are whole events. `scan` reads their usage. `hides_usage`:
    the chunk that has nothing else is left out.
    """

    def __init__(
        self, reader: RelayReader, answer_body: AnswerBody, *, until_content: bool, hides_usage: bool = False
    ) -> None:
        self.scan = UsageScan(reader.usage)
        self._reader, self._until_content, self._hides_usage = reader, until_content, hides_usage
        self._answer_body = answer_body
        self._whole = self._cut()
        self._first: list[bytes] = []
        self._has_last = False  # whether the last piece ended with the last event
        self._half = b""  # bytes after the last whole event, set at the end of the stream

    def is_over(self) -> bool:
        return self._has_last

    async def begin(self) -> None:
        """Wait for the first event with data (or content). Raises ServerError if an error comes first, or the
        stream ends.
        """
        await self._answer_body.begin()
        if self._answer_body.is_json:
            self._first = await self._unfolded()
            return
        has_more = True
        while has_more and OPEN_END.match(self._answer_body.beginning):
            has_more = await self._answer_body.read_more()
        if not has_more or self._reader.is_odd(self._answer_body.beginning):
            self._answer_body.rewrite(self._reader.framed)
        size = 0
        async for events in self._whole:
            if not size and self._reader.is_message(events):
                self._first = [await self._in_pieces(events)]
                return
            self._first.append(events)
            size += len(events)
            if size > MAX_LINE or any(self._begins(event) for event in EVENT.findall(events)):
                return
        if not self._first or self._until_content or not self._is_an_event(self._half):
            raise self._not_a_stream(b"".join(self._first) + self._half)

    async def rest(self) -> AsyncIterator[bytes]:
        """Yield the whole stream, from its first event. Raises ServerError if it breaks off."""
        for events in self._first:
            for passed in self._checked(events):
                yield passed
        is_notable = self._reader.is_notable
        async for events in self._whole:
            if not (is_notable(events) or _has_heartbeat(events)):  # nearly all: they cost no more than this
                if b'"usage"' in events:
                    events = self._scanned(events)
                if events:
                    yield events
                continue
            for passed in self._checked(events):
                yield passed
        if self._half and self._is_an_event(self._half):
            for passed in self._checked(self._half):
                yield passed if self._reader.is_over else passed + b"\n\n"
        if not self._reader.is_over:
            raise self._reader.cut()

    def _begins(self, event: bytes) -> bool:
        """Whether the event begins the answer or, with `until_content`, its content. Raises ServerError."""
        for sent in events_in(event):
            if error := self._reader.error(sent):
                raise error
            is_end = self._reader.is_end(sent)
            if is_end and not self._until_content:
                raise ProviderError(f"{self._reader.provider} ended its answer before it began")
            if not is_end and not _is_skipped(sent):
                return not self._until_content or self._reader.has_content(sent)
        return False

    async def _unfolded(self) -> list[bytes]:
        """Read a JSON body that came instead of a stream, and convert it."""
        body = self._answer_body
        sents = sents_of(await self._reader.upstream.joined(body.pieces, beginning=body.beginning))
        body.beginning = b""  # it is no piece of the stream
        if error := next(filter(None, map(self._reader.error, sents)), None):
            raise error
        if not sents[0].is_whole:
            return [self._valid(self._reader.framed(sent)) for sent in sents]
        return [self._unfolded_whole(sents[0])]

    async def _in_pieces(self, events: bytes) -> bytes:
        """A stream that begins with these events, and has whole messages instead of pieces, as a stream."""
        raw = await self._reader.upstream.joined(self._whole, beginning=events)
        return self._unfolded_whole(_whole(self._reader.folded(events_in(raw + self._half))))

    def _unfolded_whole(self, sent: ServerSentEvent) -> bytes:
        members = object_in(self._reader.provider, sent) or {}
        self._reader.check_whole(members)
        frames = self._reader.unfolded(valid_value(members))
        self._reader.has_part = self._reader.is_over = True
        return frames

    def _not_a_stream(self, raw: bytes) -> ServerError:
        """The error for a JSON or HTML body that came instead of a stream: its own error, if it has one."""
        provider = self._reader.provider
        try:
            error = self._reader.error(_whole(raw))
        except ProviderError:
            error = page(provider) if is_page(raw.decode(errors="replace")) else None
        return error or ProviderError(f"{provider} answered with something that is no stream")

    def _checked(self, events: bytes) -> Iterator[bytes]:
        """Yield the events that the caller gets, in as few pieces as they came. Raises ServerError for an
        error that must be rewritten.
        """
        passed: list[bytes] = []
        error: ServerError | None = None
        for event in EVENT.findall(events):
            if not (self._reader.is_notable(event) or _has_heartbeat(event)):
                passed.append(event)
                continue
            sents = events_in(event)
            is_end = any(map(self._reader.is_end, sents))
            try:
                error = next(filter(None, map(self._error_to_rewrite, sents)), None)
                if error is None and (is_end or not (sents and all(map(_is_skipped, sents)))):
                    self._reader.follow(sents)
                    passed.append(END if is_end and not PLAIN_END.search(event) else event)
            except ProviderError as exc:
                error = exc
            if error is not None:
                break
        if shown := self._scanned(b"".join(passed)):
            yield shown
        if error is not None:
            raise error

    def _scanned(self, events: bytes) -> bytes:
        """Read the usage in these events, and return those that the caller gets."""
        self.scan.push(events)
        if not self._hides_usage or USAGE.search(events) is None:
            return events
        return b"".join(event for event in EVENT.findall(events) if not _is_usage(event))

    def _error_to_rewrite(self, sent: ServerSentEvent) -> ServerError | None:
        """An event's error, unless it can be relayed as it is."""
        try:
            error = self._reader.error(sent)
        except ProviderError:
            return None
        if error is None:
            return None
        if not self._reader.is_readable(sent) or self._reader.upstream.repeats_secret(sent.data):
            return error
        self._reader.is_over = True
        return None

    def _is_an_event(self, half: bytes) -> bool:
        """Whether a last event without a terminator is complete nevertheless."""
        sents = events_in(half)
        return bool(sents) and all(self._reader.is_end(sent) or is_value(sent.data) for sent in sents)

    async def _cut(self) -> AsyncGenerator[bytes, None]:
        """Yield pieces that end where an event ends; bytes after the last event are left in `_half`."""
        unended = bytearray()
        pieces = self._answer_body.pieces
        piece: bytes | None = self._answer_body.beginning
        while piece is not None:
            if unended or not piece.endswith(ENDS):
                start = max(0, len(unended) - LONGEST_END)
                unended += piece
                at = max(
                    unended.rfind(end, start) + len(end) if end in unended[start:] else 0 for end in ENDS
                )
                piece = bytes(unended[:at])
                del unended[:at]
                if len(unended) > MAX_LINE:
                    raise ProviderError(f"{self._reader.provider} sent an event without an end")
            if piece:
                piece = self._valid(piece)
                self._has_last = self._reader.ends_with_last(piece)
                yield piece
                if self._has_last:
                    await drain(pieces)
            try:
                piece = await anext(pieces, None)
            except ProviderError:
                if not self._reader.is_over:
                    raise
                piece = None  # at most the usage is missing
        self._half = self._valid(bytes(unended))

    def _valid(self, events: bytes) -> bytes:
        """The events in UTF-8, with valid JSON. Records whether a part of the answer has arrived."""
        reader = self._reader
        reader.has_part = reader.has_part or reader.part.search(events) is not None
        if may_be_lax(events):
            events = DATA.sub(lambda line: strict(line.group()), events)
        return _as_utf8(events)


def _is_usage(event: bytes) -> bool:
    if USAGE.search(event) is None:
        return False
    try:
        chunks = [an_object(whole(sent.data)) for sent in events_in(event)]
    except ValueError:
        return False
    return any(chunk.get("usage") and chunk.get("choices") == [] for chunk in chunks)


def _has_heartbeat(events: bytes) -> bool:
    """Whether a line of data is no object."""
    is_usual = events.startswith((b"data: {", b"data:{", b"event:")) and b"\r" not in events
    if is_usual and ODD_LINE.search(events) is None:
        return False
    return NO_JSON.search(events) is not None


def _is_skipped(sent: ServerSentEvent) -> bool:
    """Whether an event is a heartbeat or an empty list, which clients would try to read."""
    if sent.data.strip() == "[]":
        return True
    return is_heartbeat(sent.data) and sent.event != "error" and not sent.data.strip().startswith("[")
