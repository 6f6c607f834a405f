"""The life of llama.cpp's process: it is started, says where it listens, and is ended."""

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
KEPT_BYTES = 2000  # of what it wrote, for the one who asks why it ended


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """`context_length`: tokens of a request's prompt and answer; 0: `num_slots` requests share what the model
    takes. `num_threads` 0: one a core.
    """

    path: Path
    context_length: int = 0
    num_slots: int = 4
    num_threads: int = 0
    chat_template: str | None = None  # Jinja; None: the file's own
    key: str = field(default_factory=lambda: secrets.token_hex(24), repr=False)


class LlamaCppProcess:
    """A running server: `url`, e.g. http://127.0.0.1:1234, answers those who have the settings' key."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self.url = process, ""
        self._said = b""
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, settings: Settings) -> LlamaCppProcess:
        """Returns when the model is loaded. Raises ModelError."""
        if not is_installed():
            needed = install_command("llamacpp")
            raise ModelError(f"{settings.path} is for llama.cpp, which is not installed: {needed}")
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(CHILD), stdin=pipe, stdout=pipe, stderr=pipe,
            start_new_session=True,  # Ctrl-C is for us: what it answers may be finished first
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
        """Until it has ended; its exit code."""
        return await self._process.wait()

    async def has_ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._process.wait()
        return self._process.returncode is not None

    async def last_words(self) -> str:
        """The end of what it wrote, once it has ended."""
        await self._listening
        return self._said.decode(errors="replace").strip()

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
        told = {
            "path": str(settings.path),
            "context_length": settings.context_length,
            "num_slots": settings.num_slots,
            "num_threads": settings.num_threads or os.cpu_count() or 1,
            "chat_template": settings.chat_template,
            "key": settings.key,
        }
        with suppress(ConnectionError):  # it ended already: the line below is empty
            self._process.stdin.write(json.dumps(told).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            raise ModelError(f"llama.cpp cannot load {settings.path}: {_reason(await self.last_words())}")
        self.url = json.loads(line)["url"]

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(2**16):
            self._said = (self._said + piece)[-KEPT_BYTES:]


def _reason(words: str) -> str:
    """Why a model was not loaded, out of all that llama.cpp printed: one line."""
    lines = [line for line in words.splitlines() if line.strip()] or ["it ended"]
    told = next((line for line in lines if LOADING in line), lines[-1])
    return told.rpartition(LOADING)[2].strip()
