"""What needs a GPU, as one program: `make test-gpu`. Where there is none, it says so and does nothing.

The same runner as on the CPU: equality with the plain model in float32 for some architectures, then how fast
a random model of the size of Llama 3 8B decodes in bfloat16. Four minutes at most.
"""

from __future__ import annotations

import sys
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from headrace.engine.engine import Engine
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.engine.torch.devices import device_of, name_of, num_gpus
from headrace.engine.torch.load import choose
from headrace.engine.torch.runner import TorchRunner
from tests.engine.architectures import random_model

EQUAL = ("llama", "gemma2", "gpt_oss", "deepseek_v3", "qwen3_moe", "gpt2")
LARGE = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
STREAMS, PROMPT, OUTPUT = 64, 128, 64  # tokens


def main() -> int:
    if not num_gpus():
        print("no GPU that PyTorch can use: nothing was run")
        return 0
    device = device_of("auto")
    print(f"{name_of(device)}, torch {torch.__version__}")
    for name in EQUAL:
        runner = choose(
            random_model(name).to(device), kv_cache_bytes=2**26, max_model_len=2048, max_num_seqs=STREAMS
        )
        assert isinstance(runner, TorchRunner), f"{name}: {runner.name}"
        print(f"{name}: equal to the plain model")
    print(f"{_decode_rate(device):.0f} tokens/s at {STREAMS} streams of a random model of 8 billion weights")
    return 0


def _decode_rate(device: torch.device) -> float:
    with device:
        model = AutoModelForCausalLM.from_config(LlamaConfig(**LARGE), dtype=torch.bfloat16)
    runner = choose(model, kv_cache_bytes=2**33, max_model_len=2048, max_num_seqs=STREAMS)
    engine = Engine(runner, max_num_seqs=STREAMS, max_batch_tokens=4096)
    for index in range(STREAMS):
        prompt = [(7 * index + 13 * place) % 100_000 for place in range(PROMPT)]
        engine.add(Sequence(prompt, SamplingParams(max_tokens=OUTPUT, temperature=0)))
    while engine.scheduler.num_waiting or not all(s.is_decoding for s in engine.scheduler.running):
        engine.step()
    count, started = 0, time.perf_counter()
    while engine.has_work:
        count += len(engine.step())
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
