"""Reads a provider's answer from its first event to its last, in any dialect. Whether it is JSON or a stream
of events is detected from its body: Content-Type is often wrong.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

from headrace.backends.http import Upstream
from headrace.backends.refusals import page
from headrace.backends.sse import ServerSentEvent, events, events_in
from headrace.dialects.values import Object, an_object, dumped, is_value, objects, parsed
from headrace.errors import ProviderError, ServerError
from headrace.types import Event

BOM = codecs.BOM_UTF8
BLANK = b" \t\r\n\xef\xbb\xbf"  # may precede either form: white space, a byte order mark
PART = re.compile(r'"delta"\s*:|"finish_reason"\s*:\s*null')  # in every event of a stream that has text
FAILED = re.compile("error|exception|fail", re.IGNORECASE)  # in a line of text that is no heartbeat
USAGE_S = 2.0  # wait for the usage after the last finish reason
END_S = 0.05  # wait for the end of a finished answer, after which its connection can be reused

T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)


class AnswerReader(Protocol[Item]):
    """Turns the items of one answer, server-sent events or lines, into neutral events.

    `is_over`: no further items belong to it. `is_complete`: at most its usage is missing.
    """

    is_over: bool

    @property
    def is_complete(self) -> bool: ...

    def read(self, sent: Item) -> Iterable[Event]:
        """Read one item. Raises ServerError."""
        ...

    def end(self) -> Iterable[Event]:
        """Return the last events. Raises ProviderError if the answer broke off."""
        ...


async def read_answer(reader: AnswerReader[T], items: AsyncGenerator[T, None]) -> AsyncGenerator[Event, None]:
    """Yield the events of an answer, then wait shortly for the end of `items`. Raises ServerError."""
    async with aclosing(items):
        while not reader.is_over:
            sent = await (next_in_time(items, USAGE_S) if reader.is_complete else anext(items, None))
            if sent is None:
                break
            for event in reader.read(sent):
                yield event
        for event in reader.end():
            yield event
        if reader.is_over:
            await drain(items)


@asynccontextmanager
async def open_answer(
    upstream: Upstream,
    path: str,
    body: object,
    reader: AnswerReader[ServerSentEvent],
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[AsyncIterator[Event]]:
    """Send a request and read its answer, a stream of events or one JSON body. Raises ServerError."""
    async with (
        upstream.stream(path, body, headers) as pieces,
        aclosing(read_answer(reader, events_of(upstream, pieces))) as events,
    ):
        yield events


async def next_in_time(items: AsyncIterator[T], within_s: float) -> T | None:
    """The next item; None if there is none in time. Errors after a complete answer do not matter."""
    with suppress(TimeoutError, ServerError):
        async with asyncio.timeout(within_s):
            return await anext(items, None)
    return None


async def drain(items: AsyncGenerator[Any, None]) -> None:
    """Read to the end if it comes soon, else close. Errors after a complete answer do not matter."""
    with suppress(TimeoutError, ServerError):
        async with asyncio.timeout(END_S):
            async for _ in items:
                pass
    await items.aclose()


def object_in(provider: str, sent: ServerSentEvent) -> Object | None:
    """Parse an event's JSON object, which may be alone in a list; {} for an error event without one; None for
    a heartbeat, and for an event within which the stream broke off. Raises ProviderError for other data.
    """
    if not sent.is_whole and is_heartbeat(sent.data):
        return {} if sent.event == "error" else None
    try:
        value = parsed(sent.data)
    except (ValueError, RecursionError):
        if sent.is_last:
            return None
        value = None
    if isinstance(value, list) and len(value) < 2:  # Google's errors come in lists
        value = value[0] if value else {}
    if not isinstance(value, dict):
        raise ProviderError(f"{provider} sent something that is no JSON object")
    return value


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

    async def read_more(self) -> bool:
        """Read the next bytes into `beginning`. False: there are none."""
        async for piece in self.pieces:
            self.beginning += piece
            return True
        return False

    def rewrite(self, framed: Callable[[ServerSentEvent], bytes]) -> None:
        """Have each event of the stream written again by `framed`. The last one stays without an end if it
        had none: the stream may have broken off within it.
        """
        sents, self.beginning = events(self.whole()), b""
        self.pieces = (
            framed(sent).removesuffix(b"\n\n") if sent.is_last else framed(sent) async for sent in sents
        )

    def whole(self) -> AsyncGenerator[bytes, None]:
        """The whole body, from its first byte."""
        return _whole(self.beginning, self.pieces)


async def _whole(beginning: bytes, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if beginning:
        yield beginning
    async for piece in pieces:
        yield piece


async def events_of(
    upstream: Upstream, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield the events of a stream, or a JSON body that came instead as one event. Raises ProviderError."""
    answer_body = AnswerBody(upstream.provider, pieces)
    await answer_body.begin()
    if answer_body.is_json:
        for sent in sents_of(await upstream.joined(pieces, beginning=answer_body.beginning)):
            yield sent
        return
    async with aclosing(answer_body.whole()) as whole, aclosing(events(whole)) as sents:
        async for sent in sents:
            yield sent


def sents_of(raw: bytes) -> list[ServerSentEvent]:
    """Return a body that begins as JSON as one event, which is the whole answer, or, if it has the events of
    a stream instead, as lines or as a list, those.
    """
    first, _, rest = raw.strip().partition(b"\n")
    if rest and is_value(first.decode(errors="replace")):
        return events_in(raw)
    text = raw.decode(errors="replace")
    if first[:1] == b"[" and is_value(text):
        values = objects(parsed(text))
        if len(values) > 1:
            return [ServerSentEvent("", dumped(each)) for each in values]
    return [ServerSentEvent("", text, is_whole=PART.search(text) is None or not _is_part(text))]


def _is_part(text: str) -> bool:
    """Whether a body is one event of a stream, which must not pass for a whole answer."""
    try:
        value = an_object(parsed(text))
    except (ValueError, RecursionError):
        return False
    choices = value.get("choices")
    return "delta" in value or any(
        choice.get("delta")
        or (not choice.get("message") and ("delta" in choice or choice.get("finish_reason", "") is None))
        for choice in objects(choices if isinstance(choices, list) else [choices])
    )


def is_heartbeat(data: str) -> bool:
    """Whether an event's data is no JSON object or list but empty, a number or a word, unless it says that
    something failed.
    """
    return not data.lstrip().startswith(("{", "[")) and FAILED.search(data) is None
