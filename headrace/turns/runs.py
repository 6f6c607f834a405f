"""Responses being generated, each independent of whoever reads it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any

from headrace.errors import BadRequest, Overloaded, ServerError, StoreUnavailable
from headrace.gateway.generation import Generation
from headrace.gateway.race import Until
from headrace.store import Store
from headrace.turns.recorder import ResponseRecorder
from headrace.types import Event
from headrace.wire.responses.stream import ResponseEvents

log = logging.getLogger(__name__)

TEND_S = 0.5  # how often what runs in the background is written, and asked whether it shall stop


class Run:
    """`texts`: the events so far, as JSON; each one's index is its sequence_number. The last one comes after
    the answer is committed. `named`: an error in the caller's words.
    """

    def __init__(
        self, encoder: ResponseEvents, keeping: ResponseRecorder, named: Callable[[BadRequest], BadRequest]
    ) -> None:
        self.encoder, self.keeping, self._named = encoder, keeping, named
        self.id: str = encoder.response["id"]
        self.texts = encoder.first()
        self.generation: Generation | None = None
        self.error: ServerError | None = None  # what it failed with
        self.first: Event | None = None
        self.last: Event | None = None
        self.is_done = False
        self._changed = asyncio.Event()  # a new one for every change: whoever waits for it need not be known
        self._answering: asyncio.Task[None]
        self._task: asyncio.Task[None]

    @property
    def response(self) -> dict[str, Any]:
        """As it stands."""
        return self.encoder.response

    def start(self, opening: Callable[[], Awaitable[Generation]]) -> None:
        self._answering = asyncio.create_task(self._answer(opening))
        self._task = asyncio.create_task(self._run())

    async def begun(self, within_s: float | None = None) -> None:
        """Wait until the first event has come, or the end, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.first is None and not self.is_done:
                    await self._changed.wait()

    async def done(self) -> None:
        await asyncio.shield(self._task)

    def when_done(self, work: Callable[[], None]) -> None:
        """Runs once it has ended, however that was."""
        self._task.add_done_callback(lambda _: work())

    async def follow(self, after: int = -1) -> AsyncIterator[list[str]]:
        """The events with a greater sequence_number, until the last, in batches as they come."""
        at = after + 1
        while at < len(self.texts) or not self.is_done:
            if at < len(self.texts):
                batch = self.texts[at:]
                at += len(batch)
                yield batch
            else:
                await self._changed.wait()

    def stop(self) -> None:
        """It is cancelled: what it holds is free at once, and it ends."""
        self._answering.cancel()

    async def cancel(self) -> None:
        """When this returns, it has ended."""
        self.stop()
        await self.done()

    def interrupt(self, error: ServerError) -> None:
        """It fails with this."""
        if self.generation is not None:
            self.generation.interrupt(error)
        elif not self.is_done:
            self.error = error
            self._answering.cancel()

    async def _run(self) -> None:
        await asyncio.wait([self._answering])
        if not self._answering.cancelled():
            self.error = self._error(self._answering.exception())
        self._close()
        if self.first is not None and self.keeping.is_streamed:
            self.keeping.is_told = True  # its caller is on the way to be
        kept = await self.keeping.finish(self.encoder.response, self.encoder.output)
        self.encoder.response = kept
        self.is_done = True
        self._add([self.encoder.last(kept)])

    def _close(self) -> None:
        """All but the last event. Readers and a conversation wait: nothing may go wrong here."""
        if self.error is None and self._answering.cancelled():
            self.encoder.cancel()
            return
        try:
            if self.error is None:
                self._add(self.encoder.close())
        except Exception as exc:
            self.error = self._error(exc)
        if self.error is not None:
            self._add(self.encoder.fail(self.error))

    async def _answer(self, opening: Callable[[], Awaitable[Generation]]) -> None:
        self.generation = await opening()
        try:
            async with Until(self.generation.interrupted):
                await self._read(self.generation)
        finally:
            await asyncio.shield(self.generation.aclose())

    async def _read(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self.first = self.first or event
            self.last = event
            self._add(self.encoder.event(event))

    def _error(self, exc: BaseException | None) -> ServerError | None:
        if exc is None or isinstance(exc, ServerError):
            return self._named(exc) if isinstance(exc, BadRequest) else exc
        log.error("response %s failed", self.id, exc_info=exc)
        return ServerError("the server had an error")

    def _add(self, texts: Sequence[str]) -> None:
        self.texts += texts
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Runs:
    """What runs in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None

    def find(self, owner: str, id: str) -> Run | None:
        """One that is kept."""
        run = self._runs.get(id)
        is_there = run is not None and run.keeping.is_stored and run.keeping.owner == owner
        return run if is_there else None

    def start(self, run: Run, opening: Callable[[], Awaitable[Generation]]) -> None:
        self._runs[run.id] = run
        run.start(opening)
        task = asyncio.create_task(self._whole(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if run.keeping.is_background and self._tending is None:
            self._tending = asyncio.create_task(self._tend())

    async def aclose(self) -> None:
        """What still runs fails, and says why."""
        for run in list(self._runs.values()):
            run.interrupt(Overloaded("the server is shutting down"))
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)

    async def _whole(self, run: Run) -> None:
        """Known until its events are written: then the store has it all."""
        try:
            await run.done()
            if run.keeping.is_streamed:
                await run.keeping.write(run.texts)
        finally:
            del self._runs[run.id]

    async def _tend(self) -> None:
        """While something runs in the background."""
        while background := [run for run in self._runs.values() if run.keeping.is_background]:
            await asyncio.sleep(TEND_S)
            for run in background:
                if run.keeping.is_streamed and not run.is_done:
                    await run.keeping.write(run.texts)
            for id in await self._unwanted([run.id for run in background]):
                if id in self._runs:
                    self._runs[id].stop()
        self._tending = None

    async def _unwanted(self, ids: Sequence[str]) -> Collection[str]:
        """Which of them another process was asked to cancel."""
        try:
            return await self._store.responses.cancel_requested(ids)
        except StoreUnavailable:
            return ()
