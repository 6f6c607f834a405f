"""OpenVINO GenAI's continuous batching pipeline in process.

Argument: FOLDER of an IR with its OpenVINO tokenizers.
With `--save-tokenizers GGUF FOLDER` it reads a GGUF file and leaves graph and tokenizers in FOLDER instead.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from bench.children.protocol import Prompts, Run, Timing, serve

CACHE_GIB = 1
MAX_SEQS = 32  # as Headrace
BATCH_TOKENS = 512  # as Headrace


def load() -> Run:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GIB
    scheduler.max_num_seqs = MAX_SEQS
    scheduler.max_num_batched_tokens = BATCH_TOKENS
    scheduler.enable_prefix_caching = True
    pipeline = genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU", {})
    return lambda prompts, max_tokens, ends: run(pipeline, prompts, max_tokens, ends)


def run(pipeline: Any, prompts: Prompts, max_tokens: int, ends: list[int]) -> list[Timing]:
    config = genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, not ends, False
    config.stop_token_ids = set(ends)
    timings = [Timing(len(prompt)) for prompt in prompts]
    started = time.perf_counter()
    open_ = [
        (pipeline.add_request(index, ov.Tensor(np.array([prompt], np.int64)), config), timings[index])
        for index, prompt in enumerate(prompts)
    ]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter() - started
        for handle, timing in open_:
            if handle.can_read():
                for output in handle.read().values():
                    timing.count(now, len(output.generated_ids))
    return timings


def save_tokenizers(gguf: Path, folder: Path) -> None:
    link = folder / gguf.name
    link.symlink_to(gguf.absolute())
    genai.LLMPipeline(link, "CPU", enable_save_ov_model=True)
    link.unlink()


if __name__ == "__main__":
    if sys.argv[1] == "--save-tokenizers":
        save_tokenizers(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve(load)
