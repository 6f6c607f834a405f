"""`headrace serve` with any options, in a process of its own, once it takes requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Server:
    """`url`: without /v1; `log`: its standard error."""

    process: subprocess.Popen[str]
    url: str
    log: Path


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[Server]:
    """It runs in `folder`, where its configuration may be."""
    log = folder / "server.log"
    own = ("--port", "0", "--data", str(folder / "data"))
    command = [sys.executable, "-m", "headrace", "serve", *own, *flags]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if line.strip().startswith("url ")), None)
            assert line is not None, log.read_text()
            yield Server(process, line.split()[1].removesuffix("/v1"), log)
        finally:
            process.terminate()
