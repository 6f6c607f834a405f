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

from bench.steering import LAYER, PAST, K, random_sae, step_of, table
from headrace.engine.torch.load import choose
from headrace.engine.torch.runner import TorchRunner
from headrace.steering.slot import SiteNeeds

SHAPE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


def main() -> int:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    plain, steered = _runner(model), _runner(LlamaForCausalLM(LlamaConfig(**SHAPE)).eval())
    standard, topk = random_sae(plain.width, "standard"), random_sae(plain.width, "topk")
    rank = topk.rank()
    assert rank is not None
    steered.install_sites(steered.compile_sites({LAYER: SiteNeeds(LAYER, False, (rank,))}))
    for size in (1, 16):
        table(
            f"{size} of our sequences, one token each",
            {
                "nothing attached": step_of(plain, size),
                "attached, idle": step_of(steered, size),
                "one row adds 1 direction": step_of(steered, size, standard, 1, "add", rows=1),
                "all rows clamp 8 features": step_of(steered, size, standard, 8, "clamp"),
                f"all rows clamp 8 features, topk {K}": step_of(steered, size, topk, 8, "clamp"),
                "all rows probed, top 8": step_of(steered, size, probed=topk),
            },
        )
    other = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    for size in (1, 16):
        table(
            f"transformers, {size} sequences, one token each",
            {
                "no hook": _transformers(other, size),
                "a hook that adds": _transformers(other, size, hooked=True),
            },
        )
    return 0


def _runner(model: Any) -> TorchRunner:
    found = choose(model, kv_cache_bytes=2**28, max_model_len=512, max_num_seqs=16)
    assert isinstance(found, TorchRunner)
    return found


def _transformers(model: Any, size: int, *, hooked: bool = False) -> Callable[[], float]:
    """A step of `size` sequences with PAST tokens each in the cache."""
    with torch.inference_mode():
        cache = model(input_ids=torch.full((size, PAST), 5), use_cache=True).cache
    token, direction = torch.full((size, 1), 5), torch.from_numpy(np.ones(576, np.float32))

    def step() -> float:
        hook = model.model.layers[LAYER].register_forward_hook(lambda *call: call[2] + direction)
        if not hooked:
            hook.remove()
        begin = time.perf_counter()
        with torch.inference_mode():
            model(input_ids=token, cache=cache, use_cache=True)
        took = time.perf_counter() - begin
        cache.crop(-1)
        hook.remove()
        return took

    return step


if __name__ == "__main__":
    sys.exit(main())
