"""Returns memory that was freed to the system; the C library keeps it otherwise."""

from __future__ import annotations

import ctypes


def trim() -> bool:
    """Return whether any memory went back. Only glibc can do it. Takes milliseconds; releases the GIL."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library
        return False
