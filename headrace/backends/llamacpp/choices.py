"""Runs the choices of a request, each as a request of its own, and merges their events into one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace

from headrace.backends.concurrency import Places
from headrace.types import Conversation, Event, GenerateRequest, Texts

Open = Callable[[GenerateRequest], AbstractAsyncContextManager[AsyncIterator[Event]]]
Queue = asyncio.Queue[Event | Exception | None]

MAX_SEED = 2**32 - 1  # llama.cpp's value for "no seed"; real seeds are smaller
MAX_WAITING = 64  # events that wait for the reader


def split_choices(request: GenerateRequest) -> list[GenerateRequest]:
    """Split a request for n answers into n requests, in order. Each has a seed one greater than the last."""
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


class ChoiceGroup:
    """The choices of one request, of which as many run as there are places for. A Holder of places; `open`
    starts one choice, `ended` is called when one has ended.
    """

    def __init__(
        self, requests: Sequence[GenerateRequest], open: Open, ended: Callable[[ChoiceGroup], None]
    ) -> None:
        self._requests, self._open, self._ended = requests, open, ended
        self.flow = requests[0].flow
        self._queue: Queue = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []  # one for each choice that has started
        self._is_over = False
        self.num_running = 0

    @property
    def has_more(self) -> bool:
        return len(self._tasks) < len(self._requests) and not self._is_over

    def begin(self) -> None:
        """Start the next choice."""
        self._tasks.append(asyncio.create_task(self._run(len(self._tasks))))

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of all choices. Raises what one of them fails with."""
        num_open = len(self._requests)
        while num_open:
            event = await self._queue.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                num_open -= 1
            else:
                yield event

    async def aclose(self) -> None:
        self._is_over = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, index: int) -> None:
        try:
            async with self._open(self._requests[index]) as events:
                async for event in events:
                    await self._queue.put(replace(event, index=index))
        except Exception as exc:
            self._is_over = True
            await self._queue.put(exc)
        else:
            await self._queue.put(None)
            if not self._is_over:
                self._ended(self)


@asynccontextmanager
async def run_choices(
    requests: Sequence[GenerateRequest], open: Open, places: Places[ChoiceGroup]
) -> AsyncIterator[AsyncGenerator[Event, None]]:
    """Run all requests in the place that was taken and in those that are free, and yield their events, with
    the request's number as index. One failure ends all.
    """
    holder = ChoiceGroup(requests, open, places.ended)
    places.enter(holder)
    try:
        async with aclosing(holder.events()) as events:
            yield events
    finally:
        await holder.aclose()
        places.leave(holder)
