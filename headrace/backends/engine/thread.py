"""The one place where the synchronous engine meets the event loop: a thread that steps it, and mailboxes
both ways.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import Sequence

log = logging.getLogger(__name__)

Deliver = Callable[[list[Output]], None]
Order = tuple[Literal["add", "abort"], Sequence]


class EngineThread:
    """Owns an Engine. `add` and `abort` may be called from the loop; outputs arrive on the loop, a step's at
    a time.

    If the thread dies, `died` is called once, on the loop, and `is_alive` is false from then on.
    """

    def __init__(self, engine: Engine, *, deliver: Deliver, died: Callable[[BaseException], None]) -> None:
        self._engine, self._deliver, self._died = engine, deliver, died
        self._loop = asyncio.get_running_loop()
        self._orders: deque[Order] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._failed

    def add(self, sequence: Sequence) -> None:
        self._order("add", sequence)

    def abort(self, sequence: Sequence) -> None:
        """Its blocks are free before the next step begins."""
        self._order("abort", sequence)

    def stop(self) -> None:
        """End the thread after the step it is in. Blocks until then."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _order(self, kind: Literal["add", "abort"], sequence: Sequence) -> None:
        self._orders.append((kind, sequence))
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_orders()
                if not self._engine.has_work:
                    if not self._stopping:  # looked at after the bell was cleared, so that no ring is missed
                        self._wake.wait()
                    continue
                outputs = self._engine.step()
                if outputs:
                    self._loop.call_soon_threadsafe(self._deliver, outputs)
        except BaseException as exc:
            log.exception("the engine thread died")
            self._failed = True
            self._loop.call_soon_threadsafe(self._died, exc)

    def _take_orders(self) -> None:
        self._wake.clear()  # before looking: an order that comes now wakes the next wait
        while self._orders:
            kind, sequence = self._orders.popleft()
            if kind == "add":
                self._engine.add(sequence)
            else:
                self._engine.abort(sequence)
