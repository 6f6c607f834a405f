"""What a backend on this machine reports of its work, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable


@dataclass(slots=True)
class Distribution:
    """The histogram of one set of labels. `counts`: of the values up to each bound, and above all of them."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class EngineStats:
    """`model`: the id of the model. `num_running`, `num_waiting`: sequences; `kv_usage`: the share of the KV
    cache that they hold, 0 to 1; None: not known. `stalled_s`: seconds since the last step, while there is
    work. `counts`: since the start, by the names of `engine.work.Counters`; `step_tokens`: of each step, the
    tokens that it computed; `token_gaps`: the seconds between two outputs of a sequence; `cache`: what the KV
    cache is, by the names of vLLM's settings.
    """

    model: str
    num_running: int
    num_waiting: int
    kv_usage: float | None = None
    stalled_s: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    step_tokens: Distribution | None = None
    token_gaps: Distribution | None = None
    cache: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Measured(Protocol):
    """A backend that computes on this machine."""

    def stats(self) -> EngineStats | None:
        """Its state now; None before it has started. Cheap."""
        ...


@runtime_checkable
class Composed(Protocol):
    """A backend that consists of others, each with a model of its own."""

    def parts(self) -> Sequence[object]:
        """Those that are loaded now. Safe to call in any thread."""
        ...


ReplicaState = Literal["ready", "starting", "unreachable", "failing", "draining"]


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """One of a provider's replicas. `state`: failing: its breaker is open; draining: an administrator keeps
    new requests from it. `num_active`: requests of ours now; `num_requests`, `num_failures`: since the start.
    `num_waiting` and `kv_usage`: as its own metrics say; None: not known. `trouble`: why it is not reachable.
    `was_ready`: False for a process of ours that has never been.
    """

    name: str
    state: ReplicaState
    num_active: int
    num_requests: int
    num_failures: int
    num_waiting: int | None = None
    kv_usage: float | None = None
    trouble: str = ""
    was_ready: bool = True


@runtime_checkable
class Replicated(Protocol):
    """A backend that consists of several servers with the same models."""

    @property
    def name(self) -> str: ...

    def replicas(self) -> Sequence[ReplicaStats]:
        """Their states now. Safe to call in any thread."""
        ...

    def drain(self, name: str, *, is_drained: bool) -> bool:
        """Send a replica no new requests, or send them again. Returns False if there is no such replica."""
        ...
