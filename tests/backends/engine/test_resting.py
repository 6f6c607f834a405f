"""Without work the engine returns the memory of intermediate results, and keeps the keys and values."""

from __future__ import annotations

import psutil

from headrace.engine.scheduler import MAX_SCORED
from headrace.models.catalog import DEFAULT_MODEL, Model
from tests.conftest import serving_model
from tests.serving import eventually

LOGITS = MAX_SCORED * 49_152 * 4  # bytes: a logit for each scored token of a step and word of the vocabulary
TEXT = {"model": DEFAULT_MODEL, "prompt": "water " * 1000, "max_tokens": 1}


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def test_memory_of_a_large_step_is_returned_and_the_prompt_stays_cached(default_model: Model) -> None:
    with serving_model(default_model) as server:
        assert server.post("/v1/completions", {**TEXT, "echo": True, "logprobs": 1}).status_code == 200
        after_step = resident()
        eventually(lambda: resident() < after_step - LOGITS / 2)
        usage = server.post("/v1/completions", TEXT).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 900
