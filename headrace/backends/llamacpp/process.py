"""Starts llama.cpp's server in a child process, learns its address, and stops it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from headrace.children.child import Child, ChildFailed, Command
from headrace.config import install_command
from headrace.errors import ModelError

CHILD = Path(__file__).with_name("child.py")
STOP_S = 5.0
LOADING = "error loading model: "


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

    def __init__(self, child: Child) -> None:
        self._child, self.url = child, ""

    @classmethod
    async def open(cls, settings: Settings) -> LlamaCppProcess:
        """Start a process and wait until its model is loaded. Raises ModelError, ChildFailed."""
        if not is_installed():
            needed = install_command("llamacpp")
            raise ModelError(f"{settings.path} is for llama.cpp, which is not installed: {needed}")
        values = {**asdict(settings), "num_threads": settings.num_threads or os.cpu_count() or 1}
        message = json.dumps(values, default=str)
        words = [sys.executable, "-P", str(CHILD)]
        process = cls(await Child.open(Command("llama.cpp", words, message, is_quiet=True)))
        try:
            process.url = json.loads(await process._child.report())["url"]
        except ChildFailed as exc:
            reason = _reason(await process.last_output())
            raise ModelError(f"llama.cpp cannot load {settings.path}: {reason}") from exc
        except BaseException:
            await process.aclose()
            raise
        return process

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> int:
        """Wait for its end; return the exit code."""
        return await self._child.wait()

    async def has_ended(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._child.wait()
        return self._child.exit_code is not None

    async def last_output(self) -> str:
        """Wait for its end; return the last lines that it wrote."""
        return await self._child.last_output()

    async def aclose(self) -> None:
        await self._child.stop(STOP_S)


def _reason(output: str) -> str:
    """The line of llama.cpp's output that says why a model was not loaded."""
    lines = [line for line in output.splitlines() if line.strip()] or ["it ended"]
    line = next((text for text in lines if LOADING in text), lines[-1])
    return line.rpartition(LOADING)[2].strip()
