"""transformers' continuous batching in process. Arguments: a folder of safetensors, DTYPE."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found, unused-ignore]  # only where it is measured
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from bench.children.protocol import Prompts, Run, Timing, serve

TOKENS = 32 * 1024  # that its cache is to hold: as many as 32 streams of the benchmark need, and more


def load() -> Run:
    dtype = getattr(torch, sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(Path(sys.argv[1]), dtype=dtype).eval()
    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=64)
    blocks = ContinuousBatchingConfig(block_size=32, num_blocks=TOKENS // 32, max_batch_tokens=512)
    manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=blocks)
    manager.start()
    return lambda prompts, max_tokens, ends: run(manager, prompts, max_tokens)


def run(manager: Any, prompts: Prompts, max_tokens: int) -> list[Timing]:
    started = time.perf_counter()
    timings: dict[str, Timing] = {}
    for prompt in prompts:
        timings[manager.add_request(prompt, max_new_tokens=max_tokens, streaming=True)] = Timing(len(prompt))
    running = set(timings)
    while running:
        output = manager.get_result(timeout=60)
        assert output is not None, "it has stopped"
        assert not output.error, output.error
        timing = timings[output.request_id]
        new = len(output.generated_tokens) - timing.completion_tokens
        if new:
            timing.count(time.perf_counter() - started, new)
        if output.is_finished():
            running.discard(output.request_id)
    return list(timings.values())


if __name__ == "__main__":
    serve(load)
