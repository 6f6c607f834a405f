"""The memory of a KV cache: a share of what is free, unless it is configured; and whether that is enough."""

from __future__ import annotations

import math
from typing import Literal

from headrace.errors import ConfigError

CacheType = Literal["auto", "bf16", "u8"]  # of the numbers in a KV cache; auto: as the precision wants
LEAST_TOKENS = 512  # with fewer nearly every prompt is refused
FREE_MEMORY_SHARE = 0.25  # of what is free once the weights are loaded
MIB = 2**20


def cache_budget(kv_cache_bytes: int, free: int | None = None) -> int:
    """Bytes for the KV cache. `kv_cache_bytes`: as configured; 0: a share of what is `free`; None: of the
    machine's memory.
    """
    if free is None:
        import psutil  # it takes milliseconds, which only a server with models of its own should spend

        free = psutil.virtual_memory().available
    return kv_cache_bytes or int(free * FREE_MEMORY_SHARE)


def check_cache(kv_cache_bytes: int, max_model_len: int, bytes_per_token: float) -> None:
    """Check that a cache of the configured size (0: not configured) holds enough tokens to be of use. Raises
    ConfigError, which names a sufficient size.
    """
    least = min(LEAST_TOKENS, max_model_len)
    if not kv_cache_bytes or kv_cache_bytes >= least * bytes_per_token:
        return
    needed, whole = (math.ceil(tokens * bytes_per_token / MIB) for tokens in (least, max_model_len))
    fitting = math.floor(kv_cache_bytes / bytes_per_token)
    raise ConfigError(
        f"engine.kv_cache_bytes = {kv_cache_bytes}: {fitting} tokens fit, which is too few. "
        f"Give {needed}MiB or more ({least} tokens; {whole}MiB hold the whole context of "
        f"{max_model_len}), or leave it out for a quarter of the free memory"
    )
