"""The two oracles are tied together: the graph that the engine is held to is the model in the file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from headrace.models.catalog import Model
from tests.engine.plain import PlainModel
from tests.engine.reference import ReferenceModel

TEXT = """A reservoir stores water behind a dam. The headrace is the channel that leads it from there to the
turbine, and the tailrace carries it back to the river. def area(radius): return math.pi * radius ** 2"""


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def test_the_plain_graph_keeps_the_distribution_of_the_reference(default_model: Model) -> None:
    """Not equal: the file's 4-bit blocks are rounded to 8-bit ones of another shape."""
    assert default_model.gguf is not None
    tokens = Tokenizer.from_file(str(default_model.folder / "tokenizer.json")).encode(TEXT).ids
    found = log_softmax(PlainModel(default_model.folder).logits(tokens))
    expected = log_softmax(ReferenceModel(default_model.gguf).logits(tokens))
    divergence = (np.exp(expected) * (expected - found)).sum(-1)
    print(f"KL {divergence.mean():.5f} nats a token, at most {divergence.max():.5f}")
    assert divergence.mean() < 0.005
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.9
