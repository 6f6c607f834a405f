"""Starts llama.cpp's server in a child process, learns its address, and stops it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from headrace.config import install_command
from headrace.errors import ModelError

CHILD = Path(__file__).with_name("child.py")
STOP_S = 5.0
LOADING = "error loading model: "
MAX_OUTPUT = 2000  # of its stderr, for error messages


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """`context_length`: tokens of a request's prompt and answer; 0: `num_slots` requests share the model's
    context. `num_threads`: 0 means one per core.
    """

    path: Path
    context_length: int = 0
    num_slots: int = 4
    num_threads: int = 0
    chat_template: str | None = None  # Jinja; None: the file's own
    key: str = field(default_factory=lambda: secrets.token_hex(24), repr=False)


class LlamaCppProcess:
    """A running server at `url`, for example http://127.0.0.1:1234; requests need the settings' key."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self.url = process, ""
        self._output = b""
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, settings: Settings) -> LlamaCppProcess:
        """Start a process and wait until its model is loaded. Raises ModelError."""
        if not is_installed():
            needed = install_command("llamacpp")
            raise ModelError(f"{settings.path} is for llama.cpp, which is not installed: {needed}")
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(CHILD), stdin=pipe, stdout=pipe, stderr=pipe,
            start_new_session=True,  # Ctrl-C must not reach it: its answers may finish first
        )  # fmt: skip
        process = cls(child)
        try:
            await process._load(settings)
        except BaseException:
            await process.aclose()
            raise
        return process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Wait for its end; return the exit code."""
        return await self._process.wait()

    async def has_ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._process.wait()
        return self._process.returncode is not None

    async def last_output(self) -> str:
        """Wait for its end; return the end of its stderr."""
        await self._listening
        return self._output.decode(errors="replace").strip()

    async def aclose(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not await self.has_ended(STOP_S):
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._listening

    async def _load(self, settings: Settings) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {
            "path": str(settings.path),
            "context_length": settings.context_length,
            "num_slots": settings.num_slots,
            "num_threads": settings.num_threads or os.cpu_count() or 1,
            "chat_template": settings.chat_template,
            "key": settings.key,
        }
        with suppress(ConnectionError):  # it ended already: the line below is empty
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            raise ModelError(f"llama.cpp cannot load {settings.path}: {_reason(await self.last_output())}")
        self.url = json.loads(line)["url"]

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(2**16):
            self._output = (self._output + piece)[-MAX_OUTPUT:]


def _reason(output: str) -> str:
    """The line of llama.cpp's output that says why a model was not loaded."""
    lines = [line for line in output.splitlines() if line.strip()] or ["it ended"]
    line = next((text for text in lines if LOADING in text), lines[-1])
    return line.rpartition(LOADING)[2].strip()
