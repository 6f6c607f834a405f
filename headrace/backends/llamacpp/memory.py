"""Calculates how many requests of which length fit into a share of the memory."""

from __future__ import annotations

import psutil

from headrace.config.memory import check_cache
from headrace.models.catalog import GGUFModel

FREE_MEMORY_SHARE = 0.25  # of free memory, unless the configuration sets an amount
MAX_SLOTS = 8  # each allocates memory for its whole length at start
SHORT = 4096  # tokens; the assumed context length if the file has none


def slots(model: GGUFModel, *, max_model_len: int, kv_cache_bytes: int, max_num_seqs: int) -> tuple[int, int]:
    """Return the number of slots (at least one) and the tokens of each. 0 means as in EngineConfig. Raises
    ConfigError.
    """
    header = model.header
    budget = kv_cache_bytes or int(psutil.virtual_memory().available * FREE_MEMORY_SHARE)
    length = min(max_model_len or header.context_length, header.context_length) or max_model_len or SHORT
    if not header.cache_bytes:
        return min(max_num_seqs, MAX_SLOTS), length
    check_cache(kv_cache_bytes, length, header.cache_bytes)
    fitting = max(1, budget // header.cache_bytes)
    length = min(length, fitting)
    return max(1, min(max_num_seqs, MAX_SLOTS, fitting // length)), length
