"""A gateway as a process, on a core of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.gateways.load import Address, Refused, ask
from bench.gateways.peers import Peer

START_S, STOP_S, POLL_S = 90.0, 10.0, 0.01
DROPPED = ("HEADRACE_", "LITELLM_", "OPENAI_", "PYTHON", "HTTP_PROXY", "HTTPS_PROXY")


class Failed(Exception):
    """It ended or did not get ready; the message has the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Running:
    """`ready_s`: from the start of its process to its first whole answer."""

    address: Address
    pid: int
    ready_s: float


@asynccontextmanager
async def running(peer: Peer, core: int, folder: Path) -> AsyncIterator[Running]:
    """The gateway, from its first answer to the block's end. Raises Failed."""
    log = folder / f"{peer.name}.log"
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(DROPPED)}
    began = perf_counter()
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            *peer.command, stdout=written, stderr=written, stdin=subprocess.DEVNULL, cwd=folder,
            env={**kept, **peer.environment}, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip
    try:
        why = await _first_answer(peer.address, process)
        if why is not None:
            raise Failed(f"{why}\n{_end_of(log)}")
        yield Running(peer.address, process.pid, perf_counter() - began)
    finally:
        await _stop(process)


async def _first_answer(address: Address, process: asyncio.subprocess.Process) -> str | None:
    """Ask until it answers; why it never did."""
    why, until = "", perf_counter() + START_S
    while process.returncode is None:
        try:
            await ask(address, 1, requests=1, within_s=START_S)
            return None
        except (OSError, Refused) as exc:
            why = str(exc)
        if perf_counter() > until:
            return f"not ready after {START_S:.0f} s: {why}"
        await asyncio.sleep(POLL_S)
    return f"it ended with {process.returncode}"


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, then SIGKILL; only what was started here."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
