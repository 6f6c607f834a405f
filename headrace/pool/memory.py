"""How much memory there is for models: that of the machine, or of the container that this process runs in."""

from __future__ import annotations

from pathlib import Path

import psutil

SHARE = 0.7  # of it, for models, where the configuration has no budget
CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of version 2, and of version 1


def total_bytes(root: Path = CGROUP) -> int:
    """The machine's memory, or the limit of this process's control group if that is less."""
    machine = psutil.virtual_memory().total
    return min((machine, *(limit for name in LIMITS if (limit := _limit(root / name)) is not None)))


def budget(configured: int) -> int:
    """The memory for models, in bytes. `configured`: engine.memory_budget; 0: a share of all memory."""
    return configured or int(total_bytes() * SHARE)


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None
