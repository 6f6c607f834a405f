"""Server-sent events (text/event-stream; WHATWG HTML, section 9.2.6): bytes to lines, lines to events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace

from headrace.dialects.values import is_value
from headrace.errors import ProviderError

MAX_LINE = 16 * 2**20  # bytes of one event


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a text/event-stream."""

    event: str
    data: str
    is_whole: bool = False  # not an event, but a JSON body that came instead of a stream
    is_bare: bool = field(default=False, compare=False)  # a line that is no `data`, but means an event
    is_last: bool = field(default=False, compare=False)  # only the end of the stream terminated it


class _Lines:
    r"""Splits pieces of bytes into lines, without their terminators (\n, \r\n or \r).

    A line is complete as soon as its \r has arrived, because a \n that belongs to it may arrive much later.
    """

    def __init__(self) -> None:
        self._held: list[bytes] = []  # the pieces of a line that has not ended
        self._size = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> list[str]:
        """Return the lines that end in this piece. Raises ProviderError for a line over MAX_LINE."""
        if not piece:
            return []
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        lines = piece.splitlines()
        rest = b"" if piece.endswith((b"\r", b"\n")) or not piece else lines.pop()
        if lines and self._held:
            lines[0] = b"".join([*self._held, lines[0]])
            self._held, self._size = [], 0
        if rest:
            self._held.append(rest)
            self._size += len(rest)
            if self._size > MAX_LINE:
                raise ProviderError("a provider sent an event without an end")
        return [line.decode(errors="replace") for line in lines]

    def end(self) -> list[str]:
        """Return the last line if it has no terminator."""
        return [b"".join(self._held).decode(errors="replace")] if self._held else []


async def lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    r"""Yield lines without their terminators (\n, \r\n or \r); the last line needs none. Raises ProviderError
    for a line over MAX_LINE.
    """
    cutter, bom = _Lines(), "\ufeff"
    async for piece in pieces:
        for line in cutter.feed(piece):
            yield line.removeprefix(bom)
            bom = ""  # it can only precede the first line
    for line in cutter.end():
        yield line.removeprefix(bom)


class _Events:
    """Assembles lines into events."""

    def __init__(self) -> None:
        self._event, self._data, self._size = "", list[str](), 0
        self._is_first = True

    def feed(self, line: str) -> ServerSentEvent | None:
        """Return the event that this line completes, if any. Raises ProviderError for one over MAX_LINE."""
        if self._is_first:
            line, self._is_first = line.removeprefix("\ufeff"), False
        if not line:
            return self.end()
        if line.startswith("{") and not self._data:  # some providers end a stream with an error like this
            return ServerSentEvent("", line, is_bare=True)
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data" and value.startswith("data:"):  # some proxies frame a stream a second time
            value = value.removeprefix("data:").lstrip()
        if field == "error" and value and not self._data:  # as older versions of llama.cpp write it
            return ServerSentEvent("error", value, is_bare=True)
        before = self.end() if self._is_another(field, value) else None
        if field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > MAX_LINE:
                raise ProviderError("a provider sent an event without an end")
        return before

    def _is_another(self, field: str, value: str) -> bool:
        """Whether a line begins the next event, though no empty line ended the last one, as with some
        providers. Only the second line of an event is looked at: values of several lines are parsed once.
        """
        if len(self._data) != 1 or not self._data[0].startswith("{"):
            return False
        may_be = field == "event" or (field == "data" and value.startswith(("{", "[DONE]")))
        return may_be and is_value(self._data[0])

    def end(self) -> ServerSentEvent | None:
        sent = ServerSentEvent(self._event, "\n".join(self._data)) if self._data else None
        self._event, self._data, self._size = "", [], 0
        return sent


async def events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield the events of a stream, without comments. Unlike the standard, this accepts a last event without
    an empty line after it. Raises ProviderError for an event over MAX_LINE.
    """
    cutter, builder = _Lines(), _Events()
    async for piece in pieces:
        for line in cutter.feed(piece):
            if (sent := builder.feed(line)) is not None:
                yield sent
    for line in [*cutter.end(), ""]:
        if (sent := builder.feed(line)) is not None:
            yield replace(sent, is_last=True)


def events_in(raw: bytes) -> list[ServerSentEvent]:
    """Return the events of a whole body, as `events` yields them."""
    cutter, builder = _Lines(), _Events()
    sents = [builder.feed(line) for line in cutter.feed(raw)]
    last = [builder.feed(line) for line in [*cutter.end(), ""]]
    sents += [replace(sent, is_last=True) for sent in last if sent is not None]
    return [sent for sent in sents if sent is not None]
