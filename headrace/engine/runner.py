"""The interface between engine and runtime: one forward pass over a packed batch; and what the runners share
when they are loaded: the fingerprint of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.steering.slot import SiteNeeds

Sites = Any  # what a runner prepares for itself
SAMPLES, SAMPLE_BYTES = 256, 4096  # of a file of weights


class Runner(Protocol):
    """A loaded model with its KV cache. Not thread-safe: only the engine's thread calls it, except
    `write_block`. A runner without editable layers, or whose blocks are never found by their content, leaves
    out the methods for them.
    """

    name: str  # what computes, as `/v1/models` says it
    num_blocks: int
    spare_block: int  # a block outside the pool, for tokens whose keys and values are never read
    block_size: int  # tokens per block
    block_bytes_by_type: Mapping[str, int]  # what `block_bytes` would be under "bf16" and "u8"
    block_bytes: int  # of a block: keys and values of all layers
    vocabulary: int  # logits per row
    width: int  # numbers per hidden state
    num_layers: int
    # Whether tokens after the last ones may be computed in place of others (drafts need it), and blocks that
    # are not full may be copied.
    rewinds: bool
    # Steps of so many tokens, with as many rows of logits, round each of them alike; smaller and larger ones
    # may use other kernels.
    min_invariant_tokens: int
    max_invariant_tokens: int
    # Steps without an invariant sequence are computed in a faster way, and may round otherwise.
    rounds_apart: bool
    fingerprint: bytes  # 16 bytes, which change with whatever may change the content of a block

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """Compute every chunk, write keys and values into the sequences' blocks, and return logits[R,
        vocabulary], an array that is valid until the next call.

        Running the same batch twice writes the same keys and values, so a batch may be run again after an
        exception.
        """
        ...

    def hidden(self) -> NDArray[np.float32]:
        """Return hidden[H, width] of the last forward pass: the language-model head's input for the batch's
        `hidden_rows`. Valid until the next call of forward.
        """
        ...

    @property
    def layers(self) -> frozenset[int]:
        """The layers at which batches may edit and read hidden states."""
        ...

    def compile_sites(self, sites: Mapping[int, SiteNeeds]) -> Sites:
        """Prepare for batches that edit and read these layers. May take seconds, and be called in another
        thread while `forward` computes. Raises ModelError for a layer that the model does not have.
        """
        ...

    def install_sites(self, prepared: Sites) -> None:
        """Let batches edit and read the prepared layers, and no others."""
        raise AssertionError("no layer is editable")

    def states(self, layer: int) -> NDArray[np.float32]:
        """Return states[rows, width] of the last forward pass: what left the layer, after the edits, for the
        batch's `read_rows[layer]`. Valid until the next call of forward.
        """
        raise AssertionError("no layer is editable")

    def unedited(self, layer: int) -> NDArray[np.float32]:
        """Return the same rows as `states`, as they were before the edits."""
        raise AssertionError("no layer is editable")

    def read_block(self, block: int) -> bytes:
        """Return a block's keys and values: `block_bytes` of them, which `write_block` understands."""
        raise AssertionError("no block is found by its content")

    def write_block(self, block: int, content: memoryview) -> None:
        """Set a block's keys and values. May be called in another thread while `forward` computes sequences
        that do not have this block.
        """
        raise AssertionError("no block is found by its content")

    def copy_block(self, source: int, target: int) -> None:
        """Copy a block's keys and values. Not to be called while `forward` runs."""
        raise AssertionError("no block is found by its content")

    def rest(self) -> None:
        """Free the memory of a large batch's logits. Keys and values stay. Ends the life of what `forward`
        and `hidden` returned.
        """
        ...


def add_file(digest: blake2b, path: Path) -> None:
    """Add to a fingerprint what stands for a file of weights: its size, its time, and pieces of it."""
    status = path.stat()
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    digest.update(_sample(path))


def _sample(path: Path) -> bytes:
    """Pieces of a file from all over it: reading gigabytes of weights whole would delay the start."""
    length = path.stat().st_size
    with path.open("rb") as file:
        pieces = []
        for index in range(SAMPLES):
            file.seek(length * index // SAMPLES)
            pieces.append(file.read(SAMPLE_BYTES))
    return b"".join(pieces)
