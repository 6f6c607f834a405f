"""Replicas that are processes of ours: started, awaited, restarted and stopped; and how vLLM or SGLang is
started in an environment of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import aiohttp

from headrace.backends.replicas.replica import Replica, Watch
from headrace.children.child import Child, ChildFailed, foreign
from headrace.children.keeper import Keeper
from headrace.errors import HeadraceError, ModelError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
LOOK_S = 0.5  # between two looks whether it is ready
SAY_S = 30.0  # between two lines in the log that say that it is not
STOP_S = 30.0
KEY = "VLLM_API_KEY"  # vLLM reads its key there, where the process list does not show it


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is ready at `url`."""

    child: Child
    url: str


@dataclass(frozen=True, slots=True)
class Program:
    """How a replica's process is started. `open`: starts it and waits until it is ready; `is_awaited`: the
    server takes no requests before; `stop_s`: how long it may take to finish what it does; `hangs_s`: after
    so long without an answer to a probe it is killed, and started again.
    """

    open: Callable[[], Awaitable[Process]]
    is_awaited: bool = True
    stop_s: float = 30.0
    hangs_s: float = 60.0


class Supervision:
    """Keeps the process of one replica running."""

    def __init__(self, replica: Replica, watch: Watch, program: Program) -> None:
        self._replica, self._watch, self._program = replica, watch, program
        replica.is_reachable, replica.is_starting, replica.backend.is_starting = False, True, True
        self._keeper = Keeper[Process](
            replica.name,
            program.open,
            came=self._came,
            left=self._left,
            hangs=self._hangs,
            stop_s=program.stop_s,
        )

    async def start(self) -> None:
        """Start the processes, and wait for those that are awaited. Raises ModelError if one of these cannot
        be started.
        """
        if not self._program.is_awaited:
            self._keeper.start()
            return
        try:
            first = await self._program.open()
        except HeadraceError as exc:
            raise ModelError(exc.message) from exc
        self._came(first)
        self._keeper.start(first)
        try:
            await self._replica.backend.refresh()  # routes may lead to its models
        except HeadraceError as exc:
            raise ModelError(exc.message) from exc

    async def aclose(self) -> None:
        await self._keeper.aclose()

    def _came(self, process: Process) -> None:
        replica = self._replica
        log.info("%s is ready at %s (process %d)", replica.name, process.url, process.child.pid)
        replica.backend.upstream.base_url = process.url
        self._watch.moves(process.url)
        replica.breaker.close()
        replica.is_reachable, replica.is_starting, replica.was_ready, replica.trouble = True, False, True, ""
        replica.backend.is_starting = False
        replica.backend.refresh_now()

    def _left(self, why: str, pause_s: float) -> None:
        replica = self._replica
        replica.is_reachable, replica.is_starting, replica.trouble = False, True, why
        replica.reports(None)

    def _hangs(self) -> bool:
        since = self._watch.silent_since
        return since is not None and time.monotonic() - since > self._program.hangs_s


def program(name: str, python: str, module: str, args: Sequence[str], key: str | None) -> Program:
    """`python -m MODULE ARGS`, on a free port of this machine's own."""
    return Program(partial(_open, name, python, module, args, key), is_awaited=False, stop_s=STOP_S)


async def _open(name: str, python: str, module: str, args: Sequence[str], key: str | None) -> Process:
    """Start it, and wait until it is ready, however long it takes. Raises ChildFailed if it ends before."""
    port = _free_port()
    words = ["-m", module, "--host", HOST, "--port", str(port), *args]
    environment = {**os.environ, **({} if key is None else {KEY: key})}
    log.info("%s: starting %s with %s: loading a model may take minutes", name, module, python)
    child = await Child.open(foreign(name, python, words, environment))
    try:
        await _until_ready(child, f"http://{HOST}:{port}/health")
    except BaseException:
        await child.kill()
        raise
    return Process(child, f"http://{HOST}:{port}/v1")


async def _until_ready(child: Child, url: str) -> None:
    started = logged_at = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while not await _answers(session, url):
            if child.exit_code is not None:
                last = "; ".join(child.last_lines[-3:])
                raise ChildFailed(
                    f"{child.name} ended (exit code {child.exit_code}) before it was ready: {last}"
                )
            if time.monotonic() - logged_at > SAY_S:
                logged_at = time.monotonic()
                log.info("%s: not ready yet, after %.0f s", child.name, logged_at - started)
            await asyncio.sleep(LOOK_S)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    with suppress(aiohttp.ClientError, OSError):
        async with session.get(url) as response:
            return response.status < 300
    return False


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
