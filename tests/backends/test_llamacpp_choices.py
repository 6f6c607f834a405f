"""Several answers of llama.cpp's as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headrace.backends.llamacpp.choices import together
from headrace.types import Conversation, Event, GenerateRequest, Message, TextDelta

REQUEST = GenerateRequest("m", Conversation((Message("user", "hi"),)))


def test_whatever_one_fails_with_ends_all() -> None:
    has_left = asyncio.Event()

    @asynccontextmanager
    async def open(request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        if request.priority:
            raise KeyError("nobody foresaw this")
        try:
            yield stalled()
        finally:
            has_left.set()

    async def stalled() -> AsyncIterator[Event]:
        yield TextDelta(0, "a")
        await asyncio.Event().wait()

    async def run() -> None:
        failing = GenerateRequest("m", REQUEST.prompt, priority=1)
        async with asyncio.timeout(5), together([REQUEST, failing], open) as events:
            async for _ in events:
                pass

    with pytest.raises(KeyError):
        asyncio.run(run())
    assert has_left.is_set()
