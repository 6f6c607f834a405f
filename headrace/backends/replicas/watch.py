"""Watches a replica: whether it answers, and what its metrics say."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import defaultdict

from headrace.backends.http import root
from headrace.backends.replicas.replica import Load, Replica
from headrace.errors import (
    NotFound,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ServerError,
)

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
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
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
        """Raises ServerError if it takes no requests."""
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
    found = defaultdict[bytes, list[float]](list)
    for name, number in SAMPLE.findall(text):
        with contextlib.suppress(ValueError):
            value = float(number)
            if 0 <= value < MOST:
                found[name].append(value)
    running, waiting, usage = (
        [value for name in names for value in found.get(name, ())] for names in (RUNNING, WAITING, USAGE)
    )
    if not running and not waiting:
        return None
    return Load(int(sum(running) + sum(waiting)), int(sum(waiting)), max(usage, default=None))
