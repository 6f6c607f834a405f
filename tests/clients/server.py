"""A real server in a process of its own, on a free port, until the block ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = [sys.executable, "-m", "headrace", "serve", "--port", "0", "--log-level", "WARNING"]


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """The URL, without /v1, of `headrace serve` with these options. What it keeps is thrown away. Its answers
    are the same each time, because clients compare texts of requests, not all of which can have a seed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    with (
        tempfile.TemporaryDirectory() as data,
        subprocess.Popen(
            [*COMMAND, "--data", data, "--disk-cache-bytes", "0", "--deterministic", *options],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as server,
    ):
        try:
            yield _announced_url(server)
        finally:
            server.terminate()


def _announced_url(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.strip().startswith("url "):
            return line.split()[1].removesuffix("/v1")
    raise SystemExit("the server did not start")
