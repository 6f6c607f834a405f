"""The one place where the synchronous engine meets the event loop: a thread that steps the engine, with a
queue in each direction.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Literal, TypeVar

from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import Sequence

log = logging.getLogger(__name__)

T = TypeVar("T")
Deliver = Callable[[list[Output]], None]
REST_AFTER_S = 2.0  # without work, after which the engine returns memory
# While so many sequences get tokens in each step, the loop gets them no more often than that: its work, and
# that of the connections, takes time from the cores that compute the next step, and a reader does not notice
# whether 30 or 50 pieces a second come. What begins or ends an answer never waits.
MANY, EVERY_S = 8, 0.03
Order = tuple[Literal["add", "abort"], Sequence]


class EngineThread:
    """A thread that owns an Engine. `add` and `abort` are called on the loop; `deliver` is called on the loop
    with the outputs of each step, or of a few where many sequences run.

    If the thread dies, `died` is called once, on the loop, and `is_alive` is false from then on.
    """

    # Who may touch what:
    # - The engine and its sequences belong to the thread from `add` on. The loop only reads what a step has
    #   finished writing (tokens, counts, times), when that step's outputs are delivered.
    # - `_orders` is the queue to the thread: the loop appends, the thread takes from the left. Both are
    #   single operations of deque, which are atomic, so no lock is needed. `_calls` is the same from any
    #   thread; each of its futures ends, because whatever finds the thread ended cancels those that are left.
    # - call_soon_threadsafe is the queue to the loop. It keeps its order: outputs arrive step by step, and a
    #   sequence's end after its tokens.
    # So one order is certain: an abort takes effect before the next step, but outputs of the step under way
    # may still be delivered after it. The receiver ignores outputs of sequences that it has given up.

    def __init__(self, engine: Engine, *, deliver: Deliver, died: Callable[[BaseException], None]) -> None:
        self._engine, self._deliver, self._died = engine, deliver, died
        self._loop = asyncio.get_running_loop()
        self._orders: deque[Order] = deque()
        self._calls: deque[tuple[Callable[[], None], Callable[[], bool]]] = deque()  # do it, cancel it
        self._wake = threading.Event()  # set: there may be orders, or the thread is to stop
        self._stopping = False
        self._failed = False
        self._progress_at: float | None = None  # the last step, or the arrival of work; None: no work
        self._outputs: list[Output] = []  # that the loop has not got yet
        self._delivered_at = 0.0
        # A daemon: a forward pass cannot be interrupted, and must not keep a process alive that exits
        # without `stop`.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        # `_failed` is set before the thread ends. Without it a request could enter between the exception and
        # the thread's end, and would wait for outputs that never come.
        return self._thread.is_alive() and not self._failed

    @property
    def stalled_s(self) -> float:
        """Seconds since a step has ended, while there is work; 0 while there is none."""
        progress_at = self._progress_at
        return 0.0 if progress_at is None else time.monotonic() - progress_at

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. It joins the engine before the next step."""
        self._order("add", sequence)

    def abort(self, sequence: Sequence) -> None:
        """End a sequence. Its blocks are free before the next step begins."""
        self._order("abort", sequence)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function in the thread, between two steps; the future gets its result, or what it raises. Any
        thread may call this. Sequences that were added before it have joined the engine when it runs. The
        future is cancelled if the thread ends first, or has ended.
        """
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(function())
            except Exception as exc:
                future.set_exception(exc)

        self._calls.append((answer, future.cancel))
        self._wake.set()
        if not self.is_alive:  # looked at after the append: a thread that ends later cancels what it finds
            self._cancel_calls()
        return future

    def stop(self) -> None:
        """End the thread after the step that it is computing. Blocks until then: call it off the loop."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._cancel_calls()

    def _order(self, kind: Literal["add", "abort"], sequence: Sequence) -> None:
        # Append before set: the thread looks at the queue after it has seen the event.
        self._orders.append((kind, sequence))
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_orders()
                if not self._engine.has_work:
                    self._progress_at = None
                    self._hand_over(time.monotonic())  # what aborted sequences have left
                    # `stop` may have set the event before _take_orders cleared it. It set `_stopping` first,
                    # so checking that here, after the clear, misses no call.
                    if not self._stopping:
                        self._sleep()
                    continue
                self._progress_at = self._progress_at or time.monotonic()
                outputs = self._engine.step()
                self._progress_at = time.monotonic()
                self._outputs += outputs
                if self._is_due(outputs, self._progress_at):
                    self._hand_over(self._progress_at)
        except BaseException as exc:
            # Engine.step handles failures of requests. What arrives here is a bug, after which the pool and
            # the queues may be inconsistent: continuing could mix up the caches of two requests.
            log.exception("the engine thread died")
            self._failed = True
            self._cancel_calls()
            self._hand_over(time.monotonic())
            self._loop.call_soon_threadsafe(self._died, exc)

    def _is_due(self, outputs: list[Output], now: float) -> bool:
        """Whether to deliver the collected outputs, those of this step included, to the event loop now."""
        if len(outputs) < MANY or now - self._delivered_at >= EVERY_S:
            return True
        return any(output.finish_reason or output.sequence.num_generated == 1 for output in outputs)

    def _hand_over(self, now: float) -> None:
        if self._outputs:  # a step that only computes parts of prompts has none
            outputs, self._outputs, self._delivered_at = self._outputs, [], now
            self._loop.call_soon_threadsafe(self._deliver, outputs)

    def _sleep(self) -> None:
        """Wait for an order. After a while the engine returns memory."""
        if not self._wake.wait(REST_AFTER_S):
            self._engine.rest()
            self._wake.wait()

    def _take_orders(self) -> None:
        # Clear before reading the queue. The other way round, an order that comes between the last read and
        # the clear would lie in the queue while the thread sleeps.
        self._wake.clear()
        while self._orders:
            kind, sequence = self._orders.popleft()
            if kind == "add":
                self._engine.add(sequence)
            else:
                self._engine.abort(sequence)
        self._make_calls()

    def _make_calls(self) -> None:
        while self._calls:
            answer, _ = self._calls.popleft()
            answer()

    def _cancel_calls(self) -> None:
        with suppress(IndexError):  # two threads may do this at once
            while True:
                self._calls.popleft()[1]()
