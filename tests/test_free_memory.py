"""The C library's pools of memory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest

NUM_THREADS = 6
COUNT = f"""
import ctypes, threading
from headrace.free_memory import limit_free_memory
print(limit_free_memory(), flush=True)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier({NUM_THREADS})
def allocate():
    together.wait()
    for _ in range(100):
        libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range({NUM_THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stdout = ctypes.c_void_p.in_dll(libc, "stdout")
libc.malloc_info(0, stdout)
libc.fflush(stdout)
"""


def arenas(**environment: str) -> tuple[bool, int]:
    """Whether arenas are shared, and how many a process with several threads has in the end."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.startswith("True"), len(re.findall(r"<heap nr=", done.stdout))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_share_two_arenas_unless_the_operator_says_otherwise() -> None:
    assert arenas() == (True, 2)
    is_shared, number = arenas(MALLOC_ARENA_MAX="5")
    assert (is_shared, number > 2) == (False, True)
