"""Compares a runner with the model it runs: a short prompt, in chunks and beside another one, must give the
logits that the model gives for the whole prompt.

It decides which runner a model gets. A list of architectures would be wrong about the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.engine.batch import pack
from headrace.engine.runner import Runner
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.engine.torch.decoder import Decoder, to_numpy

# Tokens of the first and of the second prompt in each step. The first is longer than a block.
STEPS = ((25, 0), (10, 7), (1, 4))
# The largest difference, of float32 and of shorter numbers. What forgets a part of its prompt differs by more
# than 0.3; rounding to 8 bits of mantissa, in a deep model, by 0.02.
EXACT, LEAST, MOST = 1e-3, 0.03, 0.1

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reference:
    """Two prompts, and what the model gives for each as a whole."""

    prompts: tuple[list[int], list[int]]
    logits: tuple[Floats, Floats]  # of each prompt, [tokens, vocabulary]
    tolerance: float

    @property
    def is_finite(self) -> bool:
        return all(bool(np.isfinite(each).all()) for each in self.logits)


def reference(decoder: Decoder) -> Reference:
    """Run two random prompts plainly. Raises what the model raises."""
    generator = np.random.default_rng(0)
    lengths = [sum(counts) for counts in zip(*STEPS, strict=True)]
    size = decoder.num_embeddings
    first, second = (generator.integers(0, size, length).tolist() for length in lengths)
    logits = tuple(_whole(decoder, prompt) for prompt in (first, second))
    return Reference((first, second), (logits[0], logits[1]), _tolerance(decoder, first, logits[0]))


def difference(runner: Runner, expected: Reference) -> float:
    """How far the runner's logits are from the model's, relative to their spread. Raises what the model
    raises.
    """
    sequences = [Sequence(list(prompt), SamplingParams(max_tokens=1)) for prompt in expected.prompts]
    blocks = iter((1, 0, runner.spare_block) if runner.num_blocks > 1 else (0, runner.spare_block))
    for sequence in sequences:
        sequence.blocks = [next(blocks) for _ in range(-(-len(sequence.tokens) // runner.block_size))]
    errors: list[float] = []
    for counts in STEPS:
        chunks = {sequence: count for sequence, count in zip(sequences, counts, strict=True) if count}
        batch = pack(chunks)
        logits = runner.forward(replace(batch, rows=np.arange(len(batch.input_ids)))).copy()
        wanted = [
            whole[sequence.num_computed : sequence.num_computed + chunks[sequence]]
            for sequence, whole in zip(sequences, expected.logits, strict=True)
            if sequence in chunks
        ]
        errors += _errors(logits, np.concatenate(wanted))
        for sequence, count in chunks.items():
            sequence.num_computed += count
    runner.rest()
    return _typical(errors, expected.tolerance)


def _whole(decoder: Decoder, prompt: list[int]) -> Floats:
    return to_numpy(decoder.plain(torch.tensor(prompt, device=decoder.device)))


def _tolerance(decoder: Decoder, prompt: list[int], whole: Floats) -> float:
    """What rounding may change: for numbers shorter than float32, a few times what the model's own cache
    changes.
    """
    if decoder.dtype == torch.float32:
        return EXACT
    ids = torch.tensor(prompt, device=decoder.device)
    try:
        cut = STEPS[0][0]
        first, cache = decoder.continued(ids[:cut], None, None)
        second, _ = decoder.continued(ids[cut:], cache, None)
    except Exception:  # the model's own; it may have no cache, or not go on in chunks
        return LEAST
    own = _errors(to_numpy(torch.cat((first, second))), whole)
    return min(max(LEAST, 4 * float(np.median(own))), MOST)


def _errors(actual: Floats, wanted: Floats) -> list[float]:
    """For each token, the distance of the logits relative to their spread."""
    spread = np.linalg.norm(wanted - wanted.mean(-1, keepdims=True), axis=-1)
    errors = np.linalg.norm(actual - wanted, axis=-1) / np.maximum(spread, np.finfo(np.float32).tiny)
    return [float(error) for error in np.nan_to_num(errors, nan=np.inf)]


def _typical(errors: list[float], tolerance: float) -> float:
    """The largest error; with short numbers, the median of those after the first chunk: the expert that a
    mixture takes for a token may change by rounding, and with it all of the token's logits.
    """
    return max(errors) if tolerance == EXACT else float(np.median(errors[STEPS[0][0] :]))
