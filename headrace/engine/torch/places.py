"""Where the cache has the tokens of a pass."""

from __future__ import annotations

import torch

BLOCK_SIZE = 32  # tokens


class Places:
    """Where a pass finds blocks, or tokens, of each head. Computed once for all layers with as many heads."""

    def __init__(self, blocks: torch.Tensor, offsets: torch.Tensor | None = None) -> None:
        """blocks[..., n]; of tokens, the blocks that they are in, and their offsets[n] there."""
        self._blocks, self._offsets = blocks, offsets
        self._known: dict[int, torch.Tensor] = {}

    def of(self, heads: int) -> torch.Tensor:
        """Indices into the blocks, or tokens, of one head: [... · heads · n]."""
        if heads not in self._known:
            each = torch.arange(heads, device=self._blocks.device)[:, None]
            found = self._blocks[..., None, :] * heads + each
            if self._offsets is not None:
                found = found * BLOCK_SIZE + self._offsets
            self._known[heads] = found.reshape(-1)
        return self._known[heads]
