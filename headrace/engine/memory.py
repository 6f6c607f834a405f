"""How much memory a KV cache gets where the configuration does not say it."""

from __future__ import annotations

import psutil

FREE_MEMORY_SHARE = 0.25  # of what is free once the weights are loaded


def budget(kv_cache_bytes: int, free: int | None = None) -> int:
    """Bytes for the KV cache. `kv_cache_bytes`: as configured; 0: a share of what is `free`; None: of the
    machine's memory.
    """
    available = psutil.virtual_memory().available if free is None else free
    return kv_cache_bytes or int(available * FREE_MEMORY_SHARE)
