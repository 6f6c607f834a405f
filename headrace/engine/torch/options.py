"""The options of the PyTorch runner. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.config.memory import CacheType
from headrace.errors import ConfigError

Numbers = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True)
class TorchOptions:
    device: str = "auto"  # "cpu", "cuda" or "cuda:N"; auto: the first GPU, if there is one
    dtype: Numbers = "auto"  # of weights, keys and values
    trusts_code: bool = False  # whether code of the folder may run


def check_numbers(kv_cache_dtype: CacheType) -> None:
    """Raise ConfigError if the cache is to hold other numbers than the model computes with."""
    if kv_cache_dtype != "auto":
        raise ConfigError(
            f"engine.kv_cache_dtype = {kv_cache_dtype!r}: the KV cache of a model that PyTorch runs has the "
            "numbers of engine.dtype"
        )
