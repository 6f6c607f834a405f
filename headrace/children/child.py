"""One child process: started with a message, heard once it is ready, and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import HeadraceError

log = logging.getLogger(__name__)

LAUNCH = Path(__file__).with_name("launch.py")
LONGEST_LINE = 2**16
LAST_LINES = 20  # of its output, for error messages
KILLED_S = 10.0  # how long a killed process may take to be gone


class ChildFailed(HeadraceError):
    """A child process ended before it was ready."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a child process runs. `message`: the first line of its input, which stays open as long as the
    parent lives. `descriptors`: those that it inherits. `is_ours`: it writes one line to its output when it
    is ready, and logs to our standard error; all output of another program is logged with its name.
    `is_quiet`: what one of ours writes to its standard error is not logged, and only its end is kept.
    """

    name: str
    words: Sequence[str]
    message: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    descriptors: tuple[int, ...] = ()
    is_ours: bool = True
    is_quiet: bool = False


def foreign(name: str, python: str, words: Sequence[str], environment: Mapping[str, str]) -> Command:
    """A program that the Python at `python` runs, `words` being its arguments. It ends with us (on Linux)."""
    launch = [python, str(LAUNCH), str(os.getpid()), *words]
    return Command(name, launch, environment=environment, is_ours=False)


class Child:
    """A running process."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self.name, self._process = command.name, process
        self.last_lines: list[str] = []
        written = process.stderr if command.is_quiet else None if command.is_ours else process.stdout
        self.is_quiet = command.is_quiet
        self._reading = None if written is None else asyncio.create_task(self._read(written))

    @classmethod
    async def open(cls, command: Command) -> Child:
        """Start a process. Raises ChildFailed."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command.words, stdin=pipe, stdout=pipe,
                stderr=pipe if command.is_quiet else None if command.is_ours else asyncio.subprocess.STDOUT,
                env=dict(command.environment), pass_fds=command.descriptors, limit=LONGEST_LINE,
                start_new_session=True,  # Ctrl-C must not reach it: its answers may finish first
            )  # fmt: skip
        except OSError as exc:
            raise ChildFailed(
                f"{command.name} cannot be started: {command.words[0]}: {exc.strerror}"
            ) from exc
        child = cls(command, process)
        assert process.stdin is not None
        with suppress(ConnectionError):  # it has ended already
            process.stdin.write(command.message.encode() + b"\n")
            await process.stdin.drain()
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    async def report(self) -> str:
        """Read the line by which the child says that it is ready. Raises ChildFailed if it ends first."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            raise ChildFailed(f"{self.name} ended before it was ready (exit code {code}): see its log")
        return line.decode()

    async def wait(self) -> int:
        """Wait until the child has ended. Returns the exit code."""
        return await self._process.wait()

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, within_s: float) -> None:
        """Send the child SIGTERM; after `within_s` seconds, kill it and its own children."""
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """Kill the child and its own children, and wait until they are gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a session of its own
        with suppress(TimeoutError):
            async with asyncio.timeout(KILLED_S):
                await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()

    async def last_output(self) -> str:
        """Wait for its end; return the last lines that it wrote."""
        if self._reading is not None:
            await self._reading
        return "\n".join(self.last_lines)

    async def _read(self, written: asyncio.StreamReader) -> None:
        """Read what it writes, line by line."""
        unended = b""
        while piece := await written.read(LONGEST_LINE):
            *lines, unended = (unended + piece).split(b"\n")
            for line in [*lines, *([unended] if len(unended) > LONGEST_LINE else [])]:
                self._line(line)
            unended = b"" if len(unended) > LONGEST_LINE else unended
        self._line(unended)

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self.last_lines = [*self.last_lines, text][-LAST_LINES:]
            if not self.is_quiet:
                log.info("%s: %s", self.name, text)


def ours(name: str, module: str, message: str, descriptors: tuple[int, ...] = ()) -> Command:
    """A module of Headrace. The configuration comes with the message alone, not from the environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
    words = [sys.executable, "-m", module]
    return Command(name, words, message, environment, descriptors)
