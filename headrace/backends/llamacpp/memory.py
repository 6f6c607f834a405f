"""How many requests may run at once, and how long they may be, in a share of the memory."""

from __future__ import annotations

import psutil

from headrace.config.memory import check_cache
from headrace.models.catalog import GGUFModel

FREE_MEMORY_SHARE = 0.25  # of what is free, unless the configuration says how much
MAX_SLOTS = 8  # each takes its whole length of memory at start, used or not
SHORT = 4096  # what is taken to be the length where the file does not say


def slots(model: GGUFModel, *, max_model_len: int, kv_cache_bytes: int, max_num_seqs: int) -> tuple[int, int]:
    """How many, at least one, and the tokens of each. 0 as in EngineConfig. Raises ConfigError."""
    header = model.header
    budget = kv_cache_bytes or int(psutil.virtual_memory().available * FREE_MEMORY_SHARE)
    length = min(max_model_len or header.context_length, header.context_length) or max_model_len or SHORT
    if not header.cache_bytes:
        return min(max_num_seqs, MAX_SLOTS), length
    check_cache(kv_cache_bytes, bytes_per_token=header.cache_bytes, max_model_len=length)
    fitting = max(1, budget // header.cache_bytes)
    length = min(length, fitting)
    return max(1, min(max_num_seqs, MAX_SLOTS, fitting // length)), length
