"""Our engine on PyTorch beside transformers' `generate`, in one process, in turn, on the same weights:

    python -m bench.beside_generate [--rounds 5] [--streams 1,16] [--dtype bfloat16] FOLDER

Prints seconds of CPU time of one thread, which other work on the machine changes less than seconds on the
clock, and the median of the ratios within a round. `generate` gets all prompts as one static batch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from headrace.engine.engine import Engine
from headrace.engine.load import load_engine
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.engine.torch.options import TorchOptions

PROMPT, OUTPUT = 128, 64  # tokens

Prompts = list[list[int]]
Measured = tuple[float, float]  # seconds of CPU time: to the first tokens of all, and of a step after that


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    numbers = TorchOptions("cpu", options.dtype)
    engine = load_engine(
        options.folder,
        max_model_len=2048,
        kv_cache_bytes=2**28,
        num_threads=1,
        speculates=False,
        torch=numbers,
    )
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=getattr(torch, options.dtype)).eval()
    generator = torch.Generator().manual_seed(0)

    def prompts(count: int) -> Prompts:
        found: Prompts = torch.randint(100, 20_000, (count, PROMPT), generator=generator).tolist()
        return found

    ours(engine, prompts(2), 4)
    theirs(model, prompts(2), 4)
    print("| streams | | ours | `generate` | ratio |\n|--:|---|--:|--:|--:|")
    for count in options.streams:
        rounds = []
        for _ in range(options.rounds):
            same = prompts(count)
            rounds.append((ours(engine, same, OUTPUT), theirs(model, same, OUTPUT)))
        _report(count, rounds)


def ours(engine: Engine, prompts: Prompts, max_tokens: int) -> Measured:
    params = SamplingParams(max_tokens=max_tokens, temperature=0)
    for prompt in prompts:
        engine.add(Sequence(list(prompt), params))
    started = time.process_time()
    while engine.scheduler.num_waiting or not all(s.is_decoding for s in engine.scheduler.running):
        engine.step()
    prefilled, steps = time.process_time(), []
    while engine.has_work:
        before = time.process_time()
        engine.step()
        steps.append(time.process_time() - before)
    return prefilled - started, median(steps)


class Clock(LogitsProcessor):  # type: ignore[misc]  # the library is untyped here
    """Called in each step, after the forward pass."""

    def __init__(self) -> None:
        self.times = [time.process_time()]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.times.append(time.process_time())
        return scores


def theirs(model: Any, prompts: Prompts, max_tokens: int) -> Measured:
    ids, clock = torch.tensor(prompts), Clock()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=max_tokens,
        max_new_tokens=max_tokens, logits_processor=LogitsProcessorList([clock]),
    )  # fmt: skip
    steps = [after - before for before, after in zip(clock.times[1:], clock.times[2:], strict=False)]
    return clock.times[1] - clock.times[0], median(steps)


def _report(count: int, rounds: list[tuple[Measured, Measured]]) -> None:
    for what, value in (("prompts, s", _prompts), ("a step, s", _step), ("all, s", _all)):
        pairs = [(value(mine), value(other)) for mine, other in rounds]
        shown = " | ".join(f"{median(side):.3f}" for side in zip(*pairs, strict=True))
        print(
            f"| {count} | {what} | {shown} | {median(other / mine for mine, other in pairs):.2f}x |",
            flush=True,
        )


def _prompts(measured: Measured) -> float:
    return measured[0]


def _step(measured: Measured) -> float:
    return measured[1]


def _all(measured: Measured) -> float:
    return measured[0] + measured[1] * (OUTPUT - 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our engine on PyTorch beside transformers' generate.")
    parser.add_argument("folder", type=Path, help="a folder of safetensors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 16])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    return parser.parse_args()


if __name__ == "__main__":
    main()
