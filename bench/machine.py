"""What this machine is: for the line above a table."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def machine(packages: Iterable[str] = ()) -> str:
    """Its processor, its Python and the versions of those packages that are installed."""
    known = [
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        *_versions(packages),
    ]
    return "; ".join(filter(None, known))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _versions(packages: Iterable[str]) -> list[str]:
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return [", ".join(versions)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
