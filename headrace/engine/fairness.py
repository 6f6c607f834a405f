"""Turns between flows (callers), so that the many requests of one do not delay the few of another.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): a sequence gets the time at which its turn starts, on a
clock that counts tokens. A flow's turns follow each other, each as long as its sequence's tokens; a flow that
has been away starts at the clock's time. Waiting sequences are served in the order of these times, and the
clock is the time of the last one that was served. So a flow with a hundred waiting sequences has turns far in
the future, and a newcomer's turn comes next. Within a flow the order is that of arrival.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable

from headrace.engine.sequence import BATCH, Sequence

ANSWER = 256  # tokens that an answer is expected to have, at most: most are shorter than their limit
CROWD = 8  # running sequences, with which a step takes notably longer than without
CALM = 64  # prompt tokens that a step computes of crowds, while other callers are there
LATELY = 1000  # steps for which a caller counts as there
MANY = 1000  # flows, after which those that have been away are forgotten


class Turns:
    """The clock of one class of priorities, and where the last turn of each flow ends."""

    def __init__(self) -> None:
        self._now = 0
        self._ends: dict[str, int] = {}

    def assign(self, sequence: Sequence) -> None:
        """Set the start of a new sequence's turn."""
        if len(self._ends) >= MANY:
            self._ends = {flow: end for flow, end in self._ends.items() if end > self._now}
        sequence.turn = max(self._now, self._ends.get(sequence.flow, 0))
        cost = sequence.num_prompt + min(sequence.params.max_tokens, ANSWER)
        self._ends[sequence.flow] = sequence.turn + cost

    def served(self, sequence: Sequence) -> None:
        """Move the clock to the turn of a sequence that has begun to be served."""
        self._now = max(self._now, sequence.turn)


class FairTurns:
    """Turns of interactive and of batch sequences: a flow's batch does not delay its interactive ones."""

    def __init__(self) -> None:
        self._interactive, self._batch = Turns(), Turns()

    def of(self, sequence: Sequence) -> Turns:
        """The turns of the sequence's class."""
        return self._batch if sequence.priority >= BATCH else self._interactive


class Presence:
    """Which flows are there: those of running sequences, and those that have had one added lately."""

    def __init__(self) -> None:
        self._step = 0
        # flow → step in which a sequence of it was added; in the order of those steps
        self._last: OrderedDict[str, int] = OrderedDict()

    def add(self, flow: str) -> None:
        self._last[flow] = self._step
        self._last.move_to_end(flow)

    def crowds(self, running: Collection[Sequence]) -> set[str]:
        """The flows that run a crowd beside others who are there, in the next step. Without the prompts of a
        crowd steps are short, and so is the wait of who comes next.
        """
        self._step += 1
        while self._last and self._step - next(iter(self._last.values())) > LATELY:
            self._last.popitem(last=False)
        if len(running) < CROWD:
            return set()
        counts = Counter(sequence.flow for sequence in running)
        if len(self._last.keys() | counts.keys()) == 1:
            return set()
        return {flow for flow, count in counts.items() if count >= CROWD}


def greedy(running: Collection[Sequence], sequence: Sequence) -> Sequence | None:
    """Choose the running sequence to preempt, so that each flow soon has a running sequence: the last in
    order among those of the waiting sequence's priority whose flow runs several. None if the waiting
    sequence's own flow runs one already: no sequence is preempted for a second one.
    """
    counts = Counter(other.flow for other in running)
    if sequence.flow in counts:
        return None
    several = (s for s in running if counts[s.flow] > 1 and s.priority == sequence.priority)
    return max(several, key=lambda other: other.rank, default=None)


def newcomers(waiting: Iterable[Sequence], running: Iterable[Sequence]) -> list[Sequence]:
    """The first waiting sequence of each flow of which none runs, in their order."""
    flows = {sequence.flow for sequence in running}
    first: dict[str, Sequence] = {}
    for sequence in sorted((s for s in waiting if s.flow not in flows), key=lambda other: other.rank):
        first.setdefault(sequence.flow, sequence)
    return list(first.values())
