"""What the default configuration (int8 weights and arithmetic) costs against exact float32, and what a KV
cache in u8 adds.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from headrace.config.memory import CacheType
from headrace.engine.batch import pack
from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.engine.runner import Runner
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.models.catalog import Model
from tests.engine.reference import ReferenceModel

WINDOW, NUM_WINDOWS, CHUNK, DECODED = 256, 4, 96, 32  # tokens


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)), np.float32)


def real_text() -> str:
    parts = [argparse.__doc__, inspect.__doc__, *(vars(os)[name].__doc__ for name in sorted(os.__all__))]
    return "\n\n".join(part for part in parts if part)


def paged_logits(runner: Runner, tokens: list[int]) -> NDArray[np.float32]:
    """logits[tokens, vocabulary] as the engine computes them: prompt chunks first, then token by token."""
    sequence = Sequence(tokens, SamplingParams(max_tokens=1))
    sequence.blocks = list(range(-(-len(tokens) // runner.block_size)))
    rows = []
    while sequence.num_pending:
        left = len(tokens) - DECODED - sequence.num_computed
        count = min(CHUNK, left) if left > 0 else 1
        batch = dataclasses.replace(pack({sequence: count}), rows=np.arange(count))
        rows.append(runner.forward(batch).copy())
        sequence.num_computed += count
    return np.concatenate(rows)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a configuration's logits cost: KL divergences, and losses of the text, token by token."""

    runner: OpenVINORunner
    divergence: list[NDArray[np.float64]] = field(default_factory=list)
    loss: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, tokens: list[int], expected: NDArray[np.float32]) -> None:
        found = log_softmax(paged_logits(self.runner, tokens))
        self.divergence.append((np.exp(expected) * (expected - found)).sum(-1, dtype=np.float64))
        self.loss.append(loss_of(tokens, found))


def loss_of(tokens: list[int], found: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(-found[np.arange(len(tokens) - 1), tokens[1:]])


def test_fast_configurations_keep_the_models_distribution(default_model: Model) -> None:
    assert default_model.gguf is not None
    ids = Tokenizer.from_file(str(default_model.folder / "tokenizer.json")).encode(real_text()).ids
    kinds: tuple[CacheType, ...] = ("auto", "u8")
    runs = {
        kind: Measured(OpenVINORunner(default_model.folder, RunnerOptions(64 << 20, kv_cache_dtype=kind)))
        for kind in kinds
    }
    reference, exact = ReferenceModel(default_model.gguf), []
    for start in range(0, WINDOW * NUM_WINDOWS, WINDOW):
        tokens = ids[start : start + WINDOW]
        expected = log_softmax(reference.logits(tokens))
        exact.append(loss_of(tokens, expected))
        for measured in runs.values():
            measured.add(tokens, expected)
    for kind, measured in runs.items():
        kl, loss = float(np.mean(measured.divergence)), float(np.mean(measured.loss) / np.mean(exact) - 1)
        print(f"{kind}: KL {kl:.4f} nats a token, cross-entropy {np.mean(measured.loss):.4f} ({loss:+.2%})")
        assert kl <= 0.01
        assert abs(loss) <= 0.005
