"""Returns memory that was freed to the system; the C library keeps it otherwise."""

from __future__ import annotations

import ctypes
import gc
import os

ARENAS = 2  # pools of memory: one for the main thread, and one that all others share
# Bytes of a block that is mapped by itself, and goes back to the system as soon as it is freed. glibc would
# raise this limit to the largest block that was ever freed, up to 32 MiB: after a few large requests, large
# blocks lie between small ones that stay. The arrays of an engine step are smaller: mapping takes time.
LARGE = 4 * 2**20
UNUSED = 32 * 2**20  # bytes at the end of a pool that are kept; glibc's is 128 KiB once LARGE is set
# glibc's numbers of the parameters, in malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def limit_free_memory() -> bool:
    """Let threads share pools of free memory (each would get its own, whose free memory no other thread can
    use), and keep large blocks out of them. Returns whether it had an effect: only glibc has such pools, and
    an operator's own settings count.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    wanted = {M_ARENA_MAX: ARENAS, M_MMAP_THRESHOLD: LARGE, M_TRIM_THRESHOLD: UNUSED}
    try:
        mallopt = ctypes.CDLL(None).mallopt
        results = [mallopt(parameter, value) for parameter, value in wanted.items()]
        return all(results)
    except (AttributeError, OSError, TypeError):  # another C library
        return False


def trim() -> bool:
    """Return whether any memory went back. Only glibc can do it. Takes milliseconds; releases the GIL."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


def collect() -> None:
    """Free what only objects in circles hold, such as an error and the frames that it passed, then trim.
    Holds the GIL for milliseconds.
    """
    gc.collect()
    trim()
