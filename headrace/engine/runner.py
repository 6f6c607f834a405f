"""What the engine needs of a model: one forward pass over a packed batch. Implementations know their
runtime.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Batch


class Runner(Protocol):
    """A loaded model with its KV cache. Not thread-safe: the engine's thread owns it."""

    num_blocks: int
    spare_block: int  # one more, that no sequence holds: what is written there is never read
    block_size: int  # tokens a block
    block_bytes: int  # keys and values of all layers
    vocabulary: int  # logits a row
    width: int  # of a hidden state

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """Compute every chunk, write keys and values into the sequences' blocks, return logits[R,
        vocabulary].

        Running the same batch twice writes the same cache. Any exception means: this step did not happen.
        The array is valid until the next call.
        """
        ...

    def hidden(self) -> NDArray[np.float32]:
        """hidden[H, width] of the last forward pass: what the language-model head reads, for the batch's
        hidden rows. Valid until the next call of forward.
        """
        ...
