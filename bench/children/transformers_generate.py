"""transformers' `generate` in process, a static batch. Arguments: a folder of safetensors, DTYPE."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found, unused-ignore]  # only where it is measured
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from bench.children.protocol import Prompts, Run, Timing, serve


class Clock(StoppingCriteria):  # type: ignore[misc]  # the library is untyped here
    """Called after each step of all rows: notes the time, stops nothing."""

    def __init__(self, timings: list[Timing]) -> None:
        self.timings, self.started = timings, time.perf_counter()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        now = time.perf_counter() - self.started
        for timing in self.timings:
            timing.count(now)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def load() -> Run:
    dtype = getattr(torch, sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(Path(sys.argv[1]), dtype=dtype).eval()
    return lambda prompts, max_tokens, ends: run(model, prompts, max_tokens)


def run(model: Any, prompts: Prompts, max_tokens: int) -> list[Timing]:
    timings = [Timing(len(prompt)) for prompt in prompts]
    ids = torch.tensor(prompts)  # all prompts of a job are of one length
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=max_tokens,
            max_new_tokens=max_tokens,
            stopping_criteria=StoppingCriteriaList([Clock(timings)]),
        )
    return timings


if __name__ == "__main__":
    serve(load)
