"""What a process and its children cost."""

from __future__ import annotations

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """The process and its children, theirs too."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_s(pid: int) -> float:
    """What the kernel has charged the tree so far (/proc/PID/stat)."""
    times = [one.cpu_times() for one in tree(pid)]
    return float(sum(one.user + one.system for one in times))


def rss_bytes(pid: int) -> int:
    """What is resident; pages that processes of the tree share count in each."""
    return sum(int(one.memory_info().rss) for one in tree(pid))


def pss_bytes(pid: int) -> int:
    """What is resident; a shared page is divided among those that share it."""
    return sum(int(one.memory_full_info().pss) for one in tree(pid))
