"""Who may put sequences into the engine: so many requests at once, and how many sequences of each.

A request holds one place from its beginning to its end. Those of its sequences that find no place wait
outside the engine, and begin when a seat is free and nobody else waits for it, one request after another in
turn. So a request of a thousand prompts uses the whole engine while it is alone, and one seat while others
want theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from headrace.errors import Overloaded


class Holder(Protocol):
    """A request with sequences to run."""

    num_running: int  # of its sequences; each holds a place

    @property
    def has_more(self) -> bool:
        """Whether it has sequences that have not begun."""
        ...


H = TypeVar("H", bound=Holder)


class Places(Generic[H]):
    """`seats` sequences run at once, `queue` more may wait in the engine. `begin` starts the next sequence of
    a holder.
    """

    def __init__(self, seats: int, queue: int, begin: Callable[[H], None]) -> None:
        self._seats, self._total, self._begin = seats, seats + queue, begin
        # Beyond one for each request, places are given out while so few are taken: some more than there are
        # seats, so that a seat that becomes free is filled at once, but never the last one.
        self._shared = max(1, min(seats + min(1 + seats // 4, queue // 4), self._total - 1))
        self._turns: deque[H] = deque()  # those that have more sequences, whose turn it is first
        self.num_taken = 0

    def take(self) -> None:
        """A place for a request that arrives. Raises Overloaded."""
        if self.num_taken >= self._total:
            waiting = self.num_taken - self._seats
            raise Overloaded(f"all {self._total} places are taken", retry_after_s=min(30, 1 + waiting // 8))
        self.num_taken += 1

    def enter(self, holder: H) -> None:
        """Its first sequence begins in the place that was taken for it, others where there is room."""
        self._start(holder)
        if holder.has_more:
            self._turns.append(holder)
            self._share()

    def ended(self, holder: H) -> None:
        """One of its sequences has: while it has more, it keeps one place."""
        holder.num_running -= 1
        if holder.has_more and not holder.num_running:
            self._start(holder)
        else:
            self.release()

    def leave(self, holder: H) -> None:
        """It has ended, whatever it still runs."""
        if holder in self._turns:
            self._turns.remove(holder)
        count, holder.num_running = holder.num_running, 0
        self.release(count)

    def release(self, count: int = 1) -> None:
        self.num_taken -= count
        self._share()

    def _share(self) -> None:
        while self._turns and self.num_taken < self._shared:
            holder = self._turns.popleft()
            if holder.has_more:
                self.num_taken += 1
                self._start(holder)
                self._turns.append(holder)

    def _start(self, holder: H) -> None:
        holder.num_running += 1
        self._begin(holder)
