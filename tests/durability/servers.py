"""`headrace serve` in processes of their own, one after the other on the same data. What they import is
loaded once, in the process that they are forked from: fifty starts would take minutes otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cli.process import environment

if TYPE_CHECKING:
    from headrace.engine.scheduler import Chunks

LOADED = [
    __name__,
    "headrace.cli.serve",
    "headrace.store.housekeeping",
    "headrace.backends.fake",
    "headrace.backends.openai",
]


@contextmanager
def server(
    folder: Path,
    *,
    max_file_bytes: int = resource.RLIM_INFINITY,
    clock: Path | None = None,
    fault: Path | None = None,
    **members: str,
) -> Iterator[str]:
    """Its address; when the block ends it is killed (SIGKILL). Its log is added to `folder`/log. `members`:
    of its environment. `max_file_bytes`: what it writes beyond that fails. `clock`: a file with the seconds
    by which the machine's wall clock is ahead for it. `fault`: a file; where it says "step", steps of the
    engine raise, where it says "thread", the engine's thread dies in the next one, and the file is emptied.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    announced, announcing = context.Pipe(duplex=False)
    arguments = (announcing, folder, environment(**members), max_file_bytes, clock, fault)
    process = context.Process(target=_serve, args=arguments)
    process.start()
    try:
        announcing.close()
        yield _until_url(announced, folder / "log")
    finally:
        process.kill()
        process.join()


def _serve(
    announcing: Connection,
    folder: Path,
    variables: dict[str, str],
    max_file_bytes: int,
    clock: Path | None,
    fault: Path | None,
) -> None:
    from headrace.cli import main

    if clock is not None:
        real = time.time
        time.time = lambda: real() + float(clock.read_text() or 0)
    if fault is not None:
        _break_engine(fault)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    os.dup2(announcing.fileno(), 1)
    os.dup2(os.open("log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    main(["serve", "--port", "0"])


def _break_engine(fault: Path) -> None:
    """Let the engine fail as the file says."""
    from headrace.engine.engine import Engine

    real = Engine._compute

    def compute(self: Engine, chunks: Chunks) -> Any:
        kind = fault.read_text()
        if kind == "thread":
            fault.write_text("")
            raise SystemExit("killed by the test")
        if kind == "step":
            raise RuntimeError("out of memory, says the test")
        return real(self, chunks)

    Engine._compute = compute  # type: ignore[method-assign]


def _until_url(announced: Connection, log: Path) -> str:
    with os.fdopen(os.dup(announced.fileno())) as lines:
        url = ""
        for line in lines:
            if line.strip().startswith("url "):
                url = line.split()[1].removesuffix("/v1")
            if line.strip().startswith("try "):
                return url
    raise AssertionError(f"headrace serve did not start: {log.read_text()[-2000:]}")
