"""What steering costs in the PyTorch runner, and what a forward hook costs in transformers, in turn.

    python -m bench.steering_torch

The model has the shape of SmolLM2-135M and random weights, which cost what others do. The extra `torch` is
needed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

if not __package__:  # run as a file: python bench/steering_torch.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.steering import LAYER, PAST, Case, compare, table
from headrace.engine.torch.load import choose
from headrace.engine.torch.runner import TorchRunner

SHAPE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


def main() -> int:
    compare_torch(8)
    return 0


def compare_torch(rounds: int) -> None:
    """Print the tables of our runner, and of transformers."""
    torch.manual_seed(0)
    plain, steered = (_runner(LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()) for _ in range(2))
    compare("PyTorch", plain, steered, rounds)
    other = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    for size in (1, 16):
        cases = {
            "no hook": Case(_transformers(other, size)),
            "a hook that adds": Case(_transformers(other, size, hooked=True)),
        }
        table(f"transformers: {size} sequences, one token each", cases, rounds)


def _runner(model: Any) -> TorchRunner:
    found = choose(model, kv_cache_bytes=2**28, max_model_len=512, max_num_seqs=16)
    assert isinstance(found, TorchRunner)
    return found


def _transformers(model: Any, size: int, *, hooked: bool = False) -> Callable[[], tuple[float, float]]:
    """A step of `size` sequences with PAST tokens each in the cache."""
    with torch.inference_mode():
        cache = model(input_ids=torch.full((size, PAST), 5), use_cache=True).cache
    token, direction = torch.full((size, 1), 5), torch.from_numpy(np.ones(576, np.float32))

    def step() -> tuple[float, float]:
        hook = model.model.layers[LAYER].register_forward_hook(lambda *call: call[2] + direction)
        if not hooked:
            hook.remove()
        begin, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            model(input_ids=token, cache=cache, use_cache=True)
        took = time.perf_counter() - begin, time.process_time() - cpu
        cache.crop(-1)
        hook.remove()
        return took

    return step


if __name__ == "__main__":
    sys.exit(main())
