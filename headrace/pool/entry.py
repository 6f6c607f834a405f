"""One model that the pool knows: its state, who uses it, and what may become of it. A lock keeps it where it
is until the lock is released, a lease until its time is over.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Literal

from headrace.backend_types import Backend
from headrace.errors import ModelLeased, ModelLocked
from headrace.features import Feature
from headrace.models.model import GGUFModel, Model
from headrace.types import ModelCard, ModelInfo

MAX_LEASE_S = 7200
# absent: not on this machine; ready: its files are here; draining: it takes no new request and is unloaded
# when those that run have ended
State = Literal["absent", "downloading", "ready", "loading", "loaded", "draining", "failed"]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0  # after a failed load; each further failure doubles it
STABLE_S = 60.0  # a model that ends by itself after so long is loaded again at once


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model that is on this machine before it is loaded. `memory_bytes`: an estimate of
    what it needs in memory.
    """

    model: Model | GGUFModel
    info: ModelInfo
    card: ModelCard
    features: Set[Feature]
    memory_bytes: int
    build: Callable[[], Backend]  # a backend that is not started


@dataclass(slots=True)
class Progress:
    """How far a download or a conversion is. `total` 0: unknown."""

    label: str = ""
    done: int = 0
    total: int = 0


@dataclass(slots=True)
class Entry:
    """`used_at`, `retry_at` and `expires_at` are on the pool's clock, in seconds."""

    id: str
    reference: str
    known: Known | None = None  # None: it is absent
    state: State = "absent"
    backend: Backend | None = None  # while it is loading, loaded or draining, or has just ended by itself
    is_pinned: bool = False
    idle_s: float = math.inf  # how long it stays loaded without a request, by the configuration
    keep_s: float | None = None  # the same, by the last request that said so
    num_users: int = 0  # requests that run
    num_waiting: int = 0  # requests that wait for it to be loaded
    used_at: float = 0.0
    error: str | None = None
    num_failures: int = 0
    retry_at: float = 0.0
    load_s: float | None = None  # how long the last load took
    loaded_at: float = -math.inf  # when that was
    num_ends: int = 0  # how often it ended by itself soon after a load, since it last did not
    returns: bool = False  # it ended by itself, and is loaded again without a request
    progress: Progress = field(default_factory=Progress)
    hold: Hold | None = None
    loading: asyncio.Task[None] | None = None
    pulling: asyncio.Task[None] | None = None

    @property
    def memory_bytes(self) -> int:
        """The memory that the model takes, or would take, by the estimate."""
        return 0 if self.known is None else self.known.memory_bytes

    @property
    def is_resident(self) -> bool:
        return self.backend is not None

    @property
    def is_ready(self) -> bool:
        """Whether the model takes requests."""
        return self.state == "loaded" and self.backend is not None and not self.backend.has_ended

    @property
    def is_idle(self) -> bool:
        return self.state == "loaded" and not self.num_users and not self.num_waiting

    @property
    def expires_at(self) -> float:
        """When it is unloaded if no request comes; infinity: never."""
        if self.is_pinned:
            return math.inf
        return self.used_at + (self.idle_s if self.keep_s is None else self.keep_s)

    @property
    def is_spare(self) -> bool:
        """Whether its memory may be freed at once."""
        return self.is_idle or (self.state == "failed" and self.is_resident)

    def failed(self, reason: str, now: float) -> None:
        """Record a failed load. Requests are refused until the pause is over."""
        self.state, self.error, self.backend = "failed", reason, None
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self.num_failures)
        self.num_failures, self.retry_at = self.num_failures + 1, now + pause_s

    def succeeded(self, load_s: float, now: float) -> None:
        self.state, self.error, self.num_failures, self.returns = "loaded", None, 0, False
        self.load_s, self.used_at, self.loaded_at = load_s, now, now

    def ended(self, now: float) -> None:
        """Record that it ended by itself. It is loaded again: at once, or after a pause that grows if it ends
        again and again soon after a load.
        """
        self.state, self.error, self.returns = "failed", "its engine has stopped", True
        self.num_ends = self.num_ends + 1 if now - self.loaded_at < STABLE_S else 0
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.num_ends - 2)) if self.num_ends > 1 else 0.0
        self.retry_at = now + pause_s


@dataclass(frozen=True, slots=True)
class Hold:
    """`until`: on the pool's clock, in seconds; None: a lock, which has no end."""

    holder: str
    reason: str = ""
    until: float | None = None

    def is_over(self, now: float) -> bool:
        return self.until is not None and self.until <= now

    def refusal(self, id: str, now: float) -> ModelLocked:
        """The error for everybody but the holder."""
        why = f": {self.reason}" if self.reason else ""
        if self.until is None:
            return ModelLocked(f"{id} is locked by {self.holder}{why}", param="model")
        left_s = max(1, round(self.until - now))
        error = ModelLeased(f"{id} is leased to {self.holder} for {left_s} s{why}", param="model")
        error.headers = {"Retry-After": str(left_s)}
        return error
