"""Starts vLLM or SGLang in an environment of its own, and waits until it has loaded its model."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import monotonic

import aiohttp

from headrace.backends.replicas.supervision import Process, Program
from headrace.children.child import Child, ChildFailed, foreign

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
LOOK_S, SAY_S = (
    0.5,
    30.0,
)  # between two looks whether it is ready, and between two lines that say that it is not
STOP_S = 30.0
KEY = "VLLM_API_KEY"  # vLLM reads its key there, where the process list does not show it


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
    started = said = monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while not await _answers(session, url):
            if child.exit_code is not None:
                last = "; ".join(child.last_lines[-3:])
                raise ChildFailed(
                    f"{child.name} ended (exit code {child.exit_code}) before it was ready: {last}"
                )
            if monotonic() - said > SAY_S:
                said = monotonic()
                log.info("%s: not ready yet, after %.0f s", child.name, said - started)
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
