"""Headrace's engine in process: what the HTTP server adds is measured against it.

Arguments: FOLDER MAX_MODEL_LEN, and the numbers that PyTorch is to compute with for a folder of safetensors.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import cast

from bench.children.protocol import Prompts, Run, Timing, serve
from headrace.engine.engine import Engine
from headrace.engine.load import load_engine
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.engine.torch.options import Numbers, TorchOptions
from headrace.models.model import read_manifest


def load() -> Run:
    options = TorchOptions(dtype=cast(Numbers, sys.argv[3])) if sys.argv[3:] else None
    folder = Path(sys.argv[1])
    model = read_manifest(folder)
    phrases = model.phrases if model is not None else None
    engine = load_engine(folder, max_model_len=int(sys.argv[2]), torch=options, phrases=phrases)
    return lambda prompts, max_tokens, ends: run(engine, prompts, max_tokens, ends)


def run(engine: Engine, prompts: Prompts, max_tokens: int, ends: list[int]) -> list[Timing]:
    params = SamplingParams(max_tokens, temperature=0, stop_token_ids=frozenset(ends))
    timings = {Sequence(prompt, params): Timing(len(prompt)) for prompt in prompts}
    started = time.perf_counter()
    for sequence in timings:
        engine.add(sequence)
    while engine.has_work:
        outputs = engine.step()
        now = time.perf_counter() - started
        for output in outputs:
            timings[output.sequence].count(now)
    return list(timings.values())


if __name__ == "__main__":
    serve(load)
