"""Limits how many requests, and how many sequences of each (one per answer), a local model runs at once.

Where all places are taken by a few callers ("flows"), another still gets one: up to an equal share each, and
twice as many places in all.

A request holds one place from its arrival to its end. Its other sequences wait outside the engine; they start
while few places are taken, one per request in turn. So a request of a thousand prompts uses the whole engine
while it is alone, and one place while others need theirs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from headrace.errors import BadRequest, Overloaded
from headrace.types import GenerateRequest

MAX_CHOICES = 1024  # answers of one request: its prompts times n


def check_choices(request: GenerateRequest) -> None:
    """Raise BadRequest if the request has too many answers."""
    if request.num_choices > MAX_CHOICES:
        raise BadRequest(
            f"{request.num_choices} answers are requested; a request may have {MAX_CHOICES}",
            param="n" if request.n > 1 else "prompt",
        )


class Holder(Protocol):
    """A request with sequences to run."""

    flow: str  # whose it is
    num_running: int  # started and not ended sequences; written by Places only

    @property
    def has_more(self) -> bool:
        """Whether there are sequences that have not started."""
        ...


H = TypeVar("H", bound=Holder)


class Places(Generic[H]):
    """Counts places: one per sequence in the engine, and one per request that has none there (it is being
    prepared). The engine runs `seats` sequences at once, and `queue` more may wait in it. `begin` starts the
    next sequence of a holder.
    """

    # Invariants:
    # - num_taken == the sum of max(1, num_running) over all requests between `take` and `leave` that have
    #   not ended, and so is `_held` for each flow. num_taken <= seats + queue, beyond which only flows with
    #   less than an equal share get places, up to twice as many.
    # - A request with has_more has at least one sequence running, so it always advances. It waits in `_turns`
    #   to start further ones.
    # - Beyond their first place requests never take the last place: a new request is refused for too many
    #   requests, not because of one large one.

    def __init__(self, seats: int, queue: int, begin: Callable[[H], None]) -> None:
        self._seats, self._total, self._begin = seats, seats + queue, begin
        # Further sequences of a request start while fewer places than this are taken: a few more than there
        # are seats, so that a seat that becomes free is filled in the next step, but never the last place.
        self._shared = max(1, min(seats + min(1 + seats // 4, queue // 4), self._total - 1))
        self._turns: deque[H] = deque()  # holders that have more sequences, the next one first
        self._held: Counter[str] = Counter()  # flow → its places, if it has any
        self.num_taken = 0

    def take(self, flow: str = "") -> None:
        """Take a place for a request that arrives. Raises Overloaded."""
        if self.num_taken >= self._total and not self._has_share_left(flow):
            waiting = self.num_taken - self._seats
            raise Overloaded(f"all {self._total} places are taken", retry_after_s=min(30, 1 + waiting // 8))
        self._add(flow, 1)

    def _has_share_left(self, flow: str) -> bool:
        """Whether the flow has less than its share, among others. Without this, one caller could fill the
        queue and keep everybody out.
        """
        own, others = self._held[flow], len(self._held) - (flow in self._held)
        return bool(others) and own < self._total // (others + 1) and self.num_taken < 2 * self._total

    def _add(self, flow: str, count: int) -> None:
        self.num_taken += count
        self._held[flow] += count
        if not self._held[flow]:
            del self._held[flow]

    def enter(self, holder: H) -> None:
        """Start the first sequence of a request in the place that it took, and others while there is room."""
        self._start(holder)
        if holder.has_more:
            self._turns.append(holder)
            self._share()

    def ended(self, holder: H) -> None:
        """Record that a sequence of the holder has ended. Its place is used for the holder's next sequence
        only if no other one of it runs; else it is free for all.
        """
        holder.num_running -= 1
        if holder.has_more and not holder.num_running:
            self._start(holder)
        else:
            self.release(holder.flow)

    def leave(self, holder: H) -> None:
        """Release all places of a request that is over, finished or not."""
        if holder in self._turns:
            self._turns.remove(holder)
        count, holder.num_running = holder.num_running, 0
        self.release(holder.flow, count)

    def release(self, flow: str = "", count: int = 1) -> None:
        self._add(flow, -count)
        self._share()

    def _share(self) -> None:
        """Start waiting sequences while there is room, one of each holder in turn."""
        while self._turns and self.num_taken < self._shared:
            holder = self._turns.popleft()
            if holder.has_more:
                self._add(holder.flow, 1)
                self._start(holder)
                self._turns.append(holder)

    def _start(self, holder: H) -> None:
        holder.num_running += 1
        self._begin(holder)
