"""`headrace` as a user runs it: a process of its own, away from any configuration of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from headrace.config import PREFIX, PROVIDER_VARIABLES, options
from headrace.models.catalog import Model

ROOT = Path(__file__).parents[2]
ALIASES = {alias for option in options() for alias in option.names.aliases} | set(PROVIDER_VARIABLES)


def environment(**members: str) -> dict[str, str]:
    """This process's, less what configures Headrace, except where models are. Nothing is cached on disk."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name == "HEADRACE_CACHE" or (not name.startswith(PREFIX) and name not in ALIASES)
    }
    return {**inherited, "PYTHONPATH": str(ROOT), "HEADRACE_DISK_CACHE_BYTES": "0", **members}


def headrace(*arguments: str, cwd: Path, text: str = "", **members: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "headrace", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(**members), input=text, capture_output=True, text=True, timeout=120
    )


def of(model: Model) -> tuple[str, ...]:
    """Arguments that serve this model, and no other."""
    return (str(model.gguf), "--cache", str(model.folder.parents[1]), "--embedding-model", "none")


@dataclass
class Serving:
    process: subprocess.Popen[str]
    url: str
    announcement: str
    log: Path
    http: httpx2.Client

    def post(self, body: dict[str, object], headers: dict[str, str] | None = None) -> httpx2.Response:
        return self.http.post("/v1/completions", json=body, headers=headers)


@contextmanager
def serving(*arguments: str, cwd: Path, prefix: Sequence[str] = (), **members: str) -> Iterator[Serving]:
    """`headrace serve` on a free port, once it has announced itself. `prefix`: a command that runs it."""
    log = cwd / "stderr.log"
    command = [
        *prefix,
        sys.executable,
        "-m",
        "headrace",
        "serve",
        "--port",
        "0",
        "--kv-cache-bytes",
        "64MiB",
        *arguments,
    ]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, cwd=cwd, env=environment(**members), stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            announcement = _until_url(process, log)
            url = announcement.split("url")[1].split()[0].removesuffix("/v1")
            with httpx2.Client(base_url=url, timeout=60, verify=False) as http:
                yield Serving(process, url, announcement, log, http)
        finally:
            process.kill()


def _until_url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    announcement = ""
    for line in process.stdout:
        announcement += line
        if line.strip().startswith("try "):
            return announcement
    pytest.fail(f"headrace serve did not start: {log.read_text()}")
