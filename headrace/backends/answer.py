"""Reads a provider's answer from its first event to its last, in any dialect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

from headrace.backends.answer_body import events_of, is_heartbeat
from headrace.backends.http import Upstream
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.values import Object, parsed
from headrace.errors import ProviderError, ServerError
from headrace.types import Event

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
async def answered(
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
    """Parse an event's JSON object; {} for an error event without one; None for a heartbeat, and for an event
    within which the stream broke off. Raises ProviderError for other data.
    """
    if not sent.is_whole and is_heartbeat(sent.data):
        return {} if sent.event == "error" else None
    try:
        value = parsed(sent.data)
    except (ValueError, RecursionError):
        if sent.is_last:
            return None
        value = None
    if not isinstance(value, dict):
        raise ProviderError(f"{provider} sent something that is no JSON object")
    return value
