"""Lets callers follow what probes read in their requests, while these run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from headrace import logs
from headrace.gateway.generation import Outcome
from headrace.steering.types import Seen
from headrace.types import Event, GenerateRequest, Started

MAX_WAITING = 1000  # entries of a follower who reads slowly; the oldest are dropped


@dataclass(eq=False)
class Follower:
    """Receives what is read in the requests of one owner; None: all requests, all SAEs."""

    owner: str | None
    request_id: str | None = None
    sae: str | None = None
    _waiting: deque[Seen] = field(default_factory=deque)
    _dropped: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, seen: Seen) -> None:
        if self.request_id not in (None, seen.request_id):
            return
        readings = tuple(one for one in seen.entry.readings if self.sae in (None, one.sae))
        if not readings:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(replace(seen, entry=replace(seen.entry, readings=readings)))
        self._arrived.set()

    async def next(self, within_s: float) -> list[Seen]:
        """What has come since the last call; nothing if nothing comes in time."""
        try:
            await asyncio.wait_for(self._arrived.wait(), within_s)
        except TimeoutError:
            return []
        waiting, dropped = list(self._waiting), self._dropped
        self._waiting.clear()
        self._arrived.clear()
        self._dropped = 0
        return [replace(waiting[0], dropped=dropped), *waiting[1:]] if waiting else []


class Monitor:
    """Sends what probes read in running requests to the callers who follow it."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    @contextmanager
    def following(self, follower: Follower) -> Iterator[Follower]:
        """Show this follower what is read, until the block ends."""
        self._followers.append(follower)
        try:
            yield follower
        finally:
            self._followers.remove(follower)

    def observer(self, request: GenerateRequest) -> Monitored:
        """An observer of a request with probes."""
        return Monitored(self._followers, logs.REQUEST_ID.get(), request.model, request.owner)


@dataclass(frozen=True, slots=True)
class Monitored:
    """Observes one request's generation."""

    followers: list[Follower]
    request_id: str
    model: str
    owner: str | None

    def on_event(self, event: Event) -> None:
        if isinstance(event, Started) or not event.activations:
            return
        for follower in self.followers:
            if follower.owner == self.owner:
                for entry in event.activations:
                    follower.push(Seen(self.request_id, self.model, event.index, entry))

    async def ended(self, outcome: Outcome, error: Exception | None) -> None:
        """Forget the request: nothing of it is stored."""
