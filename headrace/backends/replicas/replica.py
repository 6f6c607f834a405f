"""One of several servers that have the same models: whether it takes requests, and how busy it is. A watch
probes whether it answers, and reads its metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from headrace.backend_types import ReplicaState, ReplicaStats
from headrace.backends.http import root
from headrace.backends.openai import OpenAIBackend
from headrace.breaker import Breaker
from headrace.errors import (
    NotFound,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ServerError,
)
from headrace.offload import cancel_and_wait

log = logging.getLogger(__name__)

PROBE_S = 1.0  # between two probes
PROBE_TIMEOUT_S = 5.0
NO_METRICS_S = 60.0  # metrics of a replica that has none are not requested again for so long
MAX_METRICS = 2**22  # bytes
# where a server says that it takes requests: Headrace, then vLLM, SGLang, llama.cpp's and others
PATHS = ("/ready", "/health")
# vLLM's and ours, then SGLang's
RUNNING, WAITING = (
    (b"num_requests_running", b"num_running_reqs"),
    (b"num_requests_waiting", b"num_queue_reqs"),
)
USAGE = (b"kv_cache_usage_perc", b"token_usage")
MOST = 1e9  # of what a server counts: more, infinities and what is no number are not believed
SAMPLE = re.compile(rb"^(?:vllm|sglang):(\w+)(?:\{.*\})? ([0-9.eE+-]+)(?: \d+)?\s*$", re.MULTILINE)
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
        """Whether the replica gets new requests."""
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


class Watch:
    """Probes one replica every second, and at once after `hurry`."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        upstream = replica.backend.upstream
        self._root = upstream.sibling(root(upstream.base_url, "/v1"), PROBE_TIMEOUT_S)
        self._paths = list(PATHS)
        self._no_metrics_until = 0.0
        self._seen = 0  # requests when its metrics were read
        self._now = asyncio.Event()
        self.silent_since: float | None = None  # since when it has not answered, monotonic
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._root.start()
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        await cancel_and_wait(self._task)
        await self._root.aclose()

    def hurry(self) -> None:
        self._now.set()

    def moves(self, url: str) -> None:
        """Send requests to the replica's new address from now on."""
        self._root.base_url = root(url, "/v1")

    async def _run(self) -> None:
        while True:
            self._now.clear()
            try:
                await self.look()
            except Exception:
                log.exception("the replica %s could not be probed", self.replica.name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_S):
                    await self._now.wait()

    async def look(self) -> None:
        """Probe it once."""
        replica = self.replica
        if replica.is_starting:
            self.silent_since = None
            return
        trouble, is_silent = "", False
        try:
            await self._probe()
        except ServerError as exc:
            is_silent = True
            if not isinstance(exc, ProviderTimedOut) or self.silent_since is not None:
                trouble = exc.message  # a single probe may be late because the replica is busy
        if replica.is_starting:  # it has ended meanwhile
            return
        self.silent_since = self.silent_since or time.monotonic() if is_silent else None
        if trouble and replica.is_reachable:
            log.warning("the replica %s gets no requests: %s", replica.name, trouble)
        elif not trouble and not replica.is_reachable:
            log.info("the replica %s answers", replica.name)
        replica.is_reachable, replica.trouble = not trouble, trouble
        is_used = replica.num_active or replica.num_requests != self._seen
        self._seen = replica.num_requests
        replica.reports(await self._load() if is_used and not trouble else None)

    async def _probe(self) -> None:
        """Look whether the replica takes requests. Raises ServerError if it does not."""
        while self._paths:
            try:
                await self._get(self._paths[0])
                return
            except NotFound:
                self._paths.pop(0)
            except (ProviderKeyRefused, ProviderLimited, ProviderRefused):
                return  # it answers
        with contextlib.suppress(NotFound, ProviderKeyRefused, ProviderLimited, ProviderRefused):
            await self._get("/")  # it has none of these paths: any answer will do

    async def _load(self) -> Load | None:
        now = asyncio.get_running_loop().time()
        if now < self._no_metrics_until:
            return None
        try:
            load = load_in(await self._get("/metrics"))
        except ServerError:
            load = None
        if load is None:
            self._no_metrics_until = now + NO_METRICS_S
        return load

    async def _get(self, path: str) -> bytes:
        async with self._root.request("GET", path, None) as response:
            return await self._root.joined(self._root.pieces(response), MAX_METRICS)


def load_in(text: bytes) -> Load | None:
    """The load in metrics of vLLM's, SGLang's or ours; None: they do not have it. Several models, or engines,
    of one replica are added up; of their KV caches the fullest counts.
    """
    values_by_name = defaultdict[bytes, list[float]](list)
    for name, number in SAMPLE.findall(text):
        with contextlib.suppress(ValueError):
            value = float(number)
            if 0 <= value < MOST:
                values_by_name[name].append(value)
    running, waiting, usage = (
        [value for name in names for value in values_by_name.get(name, ())]
        for names in (RUNNING, WAITING, USAGE)
    )
    if not running and not waiting:
        return None
    return Load(int(sum(running) + sum(waiting)), int(sum(waiting)), max(usage, default=None))
