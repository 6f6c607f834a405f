"""Runs one request per choice at the same time, and merges their events into one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from headrace.types import Conversation, Event, GenerateRequest, Texts

Open = Callable[[GenerateRequest], AbstractAsyncContextManager[AsyncIterator[Event]]]
Queue = asyncio.Queue[Event | Exception | None]

MAX_SEED = 2**32 - 1  # llama.cpp's value for "no seed"; real seeds are smaller
MAX_HELD = 64  # events that wait for the reader


def singles(request: GenerateRequest) -> list[GenerateRequest]:
    """Split a request into one per choice, in order. A seed is counted up from choice to choice."""
    prompt, seed = request.prompt, request.sampling.seed
    prompts: list[Conversation | Texts] = [prompt]
    if isinstance(prompt, Texts):
        prompts = [replace(prompt, prompts=(text,)) for text in prompt.prompts]
    seeds = [None if seed is None else (seed + index) % MAX_SEED for index in range(request.n)]
    return [
        replace(request, prompt=one, n=1, sampling=replace(request.sampling, seed=own))
        for one in prompts
        for own in seeds
    ]


@asynccontextmanager
async def together(
    requests: Sequence[GenerateRequest], open: Open
) -> AsyncIterator[AsyncGenerator[Event, None]]:
    """Run all requests and yield their events, with the request's place as index. One failure ends all."""
    queue: Queue = asyncio.Queue(MAX_HELD)
    asking = [
        asyncio.create_task(_ask(request, index, open, queue)) for index, request in enumerate(requests)
    ]
    events = _events(queue, len(requests))
    try:
        yield events
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await events.aclose()


async def _ask(request: GenerateRequest, index: int, open: Open, queue: Queue) -> None:
    try:
        async with open(request) as events:
            async for event in events:
                await queue.put(replace(event, index=index))
    except Exception as exc:
        await queue.put(exc)
    else:
        await queue.put(None)


async def _events(queue: Queue, num_open: int) -> AsyncGenerator[Event, None]:
    while num_open:
        event = await queue.get()
        if isinstance(event, Exception):
            raise event
        if event is None:
            num_open -= 1
        else:
            yield event
