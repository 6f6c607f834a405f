"""How a pass is computed, so far as its rounding depends on it.

A seeded answer repeats only if its numbers do not depend on what else is in a step. torch's kernels add in
an order that depends on the sizes of their operands, and on the processor. What is alike is measured when a
model is loaded (measured_rounding.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.engine.torch.cache import BLOCK_SIZE

PIECE = 512  # keys: torch attends to so many at a time
ALL_SIZES = tuple(range(0, PIECE + 1, BLOCK_SIZE))
UNLIMITED = 2**31


@dataclass(frozen=True, slots=True)
class Rounding:
    """A way to compute the attention of a step."""

    # Keys are padded to a multiple of PIECE plus one of these: sums over so many are in the order of PIECE.
    sizes: tuple[int, ...] = ALL_SIZES
    single: bool = False  # whether the keys of single queries are padded so, too
    rows: int = 2  # single queries, with those of heads that share keys, are padded to so many
    starts: bool = True  # whether the first tokens of a sequence take torch's faster, causal way
    wide: bool = False  # whether it is computed in float32, whatever the model's numbers

    def padded(self, length: int) -> int:
        """The number of keys, at least `length`, to which the attention is computed."""
        pieces, rest = divmod(length, PIECE)
        return pieces * PIECE + next(size for size in self.sizes if size >= rest)


FASTEST = Rounding()
