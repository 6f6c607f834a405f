"""One of several servers that have the same models: whether it takes requests, and how busy it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from headrace.backend_types import ReplicaState, ReplicaStats
from headrace.backends.openai import OpenAIBackend
from headrace.breaker import Breaker

FULL = 0.95  # share of the KV cache in use: new requests would wait, or push others out


@dataclass(frozen=True, slots=True)
class Load:
    """What a replica's own metrics say. `num_requests`: those that run and wait there, whoever sent them;
    `kv_usage`: 0 to 1; None: not known.
    """

    num_requests: int
    num_waiting: int
    kv_usage: float | None = None


class Replica:
    """A server at `url`, which `backend` talks to. `name` says which one it is in metrics, logs and the admin
    API, and decides which requests prefer it.
    """

    def __init__(self, name: str, backend: OpenAIBackend, breaker: Breaker) -> None:
        self.name, self.backend, self.breaker = name, backend, breaker
        self.num_active = 0  # requests of ours that it works on
        self.num_requests = self.num_failures = 0  # since the start
        self.is_drained = False  # by an administrator
        self.is_reachable = True
        self.is_starting = False  # it is a process of ours that is not ready
        self.was_ready = True  # ... and has been before
        self.trouble = ""  # why it is not reachable
        self._load: Load | None = None
        self._others = 0  # requests that others had there when its metrics were read
        self._most = 0  # our own at once since then

    @property
    def is_available(self) -> bool:
        """Whether it gets new requests."""
        return self.is_reachable and not self.is_drained and not self.breaker.retry_after_s

    @property
    def state(self) -> ReplicaState:
        if self.is_drained:
            return "draining"
        if not self.is_reachable:
            return "starting" if self.is_starting else "unreachable"
        return "failing" if self.breaker.state == "open" else "ready"

    @property
    def num_pending(self) -> int:
        """Our requests there now, and those of others, as far as they are known."""
        return self.num_active + self._others

    @property
    def is_full(self) -> bool:
        return self._load is not None and (self._load.kv_usage or 0.0) > FULL

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a request while the block runs."""
        self.num_active += 1
        self.num_requests += 1
        self._most = max(self._most, self.num_active)
        try:
            yield
        finally:
            self.num_active -= 1

    def reports(self, load: Load | None) -> None:
        """Take over what its metrics say; None: they are not known. They are a moment old: those of our
        requests that have ended since are not taken for others'.
        """
        self._load = load
        self._others = 0 if load is None else max(0, load.num_requests - self._most)
        self._most = self.num_active

    def stats(self) -> ReplicaStats:
        load = self._load
        return ReplicaStats(
            self.name, self.state, self.num_active, self.num_requests, self.num_failures,
            None if load is None else load.num_waiting, None if load is None else load.kv_usage, self.trouble,
            self.was_ready,
        )  # fmt: skip
