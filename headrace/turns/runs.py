"""Running responses. A run does not depend on its readers: they come, follow and leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

from headrace.errors import BadRequest, Overloaded, ServerError, StoreUnavailable
from headrace.gateway.generation import Generation, Outcome
from headrace.gateway.lifetime import Until, interrupt
from headrace.store import Store
from headrace.turns.recorder import ResponseRecorder
from headrace.types import Event
from headrace.wire.responses.object import ResponseObject
from headrace.wire.responses.stream import ResponseEvents

log = logging.getLogger(__name__)

Open = Callable[[], Awaitable[Generation]]

BACKGROUND_S = 0.5  # how often events of background runs are stored and requests to cancel them are read


class Run:
    """One running response, which observes its generation. `texts`: its events so far, as JSON; the index of
    each is its sequence_number. The last event comes after the response is stored. `translate`: rewrites an
    error in the words of the endpoint.
    """

    def __init__(
        self,
        encoder: ResponseEvents,
        recorder: ResponseRecorder,
        translate: Callable[[BadRequest], BadRequest],
    ) -> None:
        self.encoder, self.recorder, self._translate = encoder, recorder, translate
        self.id: str = encoder.response["id"]
        self.texts = encoder.first()
        self.generation: Generation | None = None
        self.error: ServerError | None = None  # why it failed
        self.first: Event | None = None
        self.last: Event | None = None
        self.is_done = False
        # Replaced at every change: a reader waits for the one that it sees, and needs no registration.
        self._changed = asyncio.Event()
        self._generating: asyncio.Task[None]
        self._task: asyncio.Task[None]

    @property
    def response(self) -> ResponseObject:
        """The response object as it stands."""
        return self.encoder.response

    def observe(self, generation: Generation) -> None:
        self.generation = generation
        generation.observe(self)

    def start(self, open_generation: Open | None = None) -> None:
        """Read the generation in a task that may be cancelled; finish in another, so that the end is always
        stored. `open_generation` opens it, unless the run observes one already.
        """
        self._generating = asyncio.create_task(self._generate(open_generation))
        self._task = asyncio.create_task(self._finish())

    async def wait_for_first(self, within_s: float | None = None) -> None:
        """Wait for the first event or the end, `within_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.first is None and not self.is_done:
                    await self._changed.wait()

    async def done(self) -> None:
        """Wait until the run has ended and is stored."""
        await asyncio.shield(self._task)

    def when_done(self, work: Callable[[], None]) -> None:
        """Call `work` at the end of the run, however it ends."""
        self._task.add_done_callback(lambda _: work())

    async def follow(self, after: int = -1) -> AsyncIterator[list[str]]:
        """Batches of the events with a sequence_number greater than `after`, as they come, until the last."""
        index = after + 1
        while index < len(self.texts) or not self.is_done:
            if index < len(self.texts):
                batch = self.texts[index:]
                index += len(batch)
                yield batch
            else:
                await self._changed.wait()

    def stop(self) -> None:
        """Cancel the generation, without waiting for the end."""
        self._generating.cancel()

    async def cancel(self) -> None:
        """Cancel the generation, and wait until the run has ended."""
        self.stop()
        await self.done()

    def interrupt(self, error: ServerError) -> None:
        """Make the run fail with `error`."""
        if self.generation is not None:
            interrupt(self.generation.interrupted, error)
        elif not self.is_done:
            self.error = error
            self._generating.cancel()

    def on_event(self, event: Event) -> None:
        self.first, self.last = self.first or event, event
        self._add(self.encoder.event(event))

    async def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """Add the closing events, store the response, and add the last event."""
        if outcome == "failed":
            self.error = self._error(error)
        if outcome == "left" and self.error is None:
            self.encoder.cancel()
        else:
            self._close()
        if self.first is not None and self.recorder.is_streamed:
            self.recorder.is_announced = True  # the client may have read the id from the first event
        stored = await self.recorder.finish(self.encoder.response, self.encoder.output)
        self.encoder.response = stored
        self.is_done = True
        self._add([self.encoder.last(stored)])

    def _close(self) -> None:
        """Add the closing events but the last. It must not raise: readers and a locked conversation wait for
        the end.
        """
        try:
            if self.error is None:
                self._add(self.encoder.close())
        except Exception as exc:
            self.error = self._error(exc)
        if self.error is not None:
            self._add(self.encoder.fail(self.error))

    async def _generate(self, open_generation: Open | None) -> None:
        if open_generation is not None:
            self.observe(await open_generation())
        assert self.generation is not None
        async with Until(self.generation.interrupted):
            async for _ in self.generation:
                pass

    async def _finish(self) -> None:
        (error,) = await asyncio.gather(self._generating, return_exceptions=True)
        if self.generation is not None:
            await self.generation.aclose()  # calls `ended`, unless that has happened
        else:
            await self.ended("left" if isinstance(error, asyncio.CancelledError) else "failed", error)

    def _error(self, exc: BaseException | None) -> ServerError:
        if isinstance(exc, ServerError):
            return self._translate(exc) if isinstance(exc, BadRequest) else exc
        log.error("response %s failed", self.id, exc_info=exc)
        return ServerError("the server had an error")

    def _add(self, texts: Sequence[str]) -> None:
        self.texts += texts
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Runs:
    """All runs of this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: asyncio.Task[None] | None = None

    def find(self, owner: str, id: str) -> Run | None:
        """The owner's run with this id; None if there is none, or if its response is not stored."""
        run = self._runs.get(id)
        if run is None or run.recorder.owner != owner:
            return None
        return run if run.recorder.is_stored and not run.recorder.is_lost else None

    def start(self, run: Run, open_generation: Open | None = None) -> None:
        self._runs[run.id] = run
        run.start(open_generation)
        task = asyncio.create_task(self._until_stored(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if run.recorder.is_background and self._background is None:
            self._background = asyncio.create_task(self._watch_background())

    async def aclose(self) -> None:
        """Fail all runs, with the reason, and wait for their ends."""
        for run in list(self._runs.values()):
            run.interrupt(Overloaded("the server is shutting down"))
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)

    async def _until_stored(self, run: Run) -> None:
        """Keep the run findable until its events are stored; from then on they are read from the store."""
        try:
            await run.done()
            if run.recorder.is_streamed:
                await run.recorder.write(run.texts)
        finally:
            del self._runs[run.id]

    async def _watch_background(self) -> None:
        """Store events, and stop runs that another process has cancelled, while there are background runs."""
        while background := [run for run in self._runs.values() if run.recorder.is_background]:
            await asyncio.sleep(BACKGROUND_S)
            for run in background:
                if run.recorder.is_streamed and not run.is_done:
                    await run.recorder.write(run.texts)
            for id in await self._cancel_requested([run.id for run in background]):
                if id in self._runs:
                    self._runs[id].stop()
        self._background = None

    async def _cancel_requested(self, ids: Sequence[str]) -> Collection[str]:
        """The ids of responses that another process has cancelled; none while the store is unavailable."""
        try:
            return await self._store.responses.cancel_requested(ids)
        except StoreUnavailable:
            return ()
