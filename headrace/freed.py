"""Returns memory that was freed to the system; the C library keeps it otherwise."""

from __future__ import annotations

import ctypes
import os

ARENAS = 2  # pools of memory: one for the main thread, and one that all others share
M_ARENA_MAX = -8  # glibc's number of the parameter, in malloc.h


def share_arenas() -> bool:
    """Let threads share pools of free memory. Each would get its own, whose free memory no other thread can
    use. Returns whether it had an effect: only glibc has such pools, and an operator's own setting counts.
    """
    if any(name in os.environ for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


def trim() -> bool:
    """Return whether any memory went back. Only glibc can do it. Takes milliseconds; releases the GIL."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library
        return False
