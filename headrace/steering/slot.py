"""A slot: one edit in raw numbers, ready for a runner. Its maths (`docs/steering.md` derives it):

    z = ρ(h) · (h · read) + bias          ρ, κ: the SAE's normalization of the row, 1 without
    a = z where z > threshold, else 0     -∞ for a raw direction; of topk also: z among the row's k largest
    Δ = weight · κ(h) · (clip(gain · a + offset, low, high) - a) · write

An `add` reads nothing: Δ = weight · offset · write, with offset 1. The weight of each token is the term's
strength where its scope covers the token, else 0; so another strength is not another slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace.steering.types import Normalization

Floats = NDArray[np.float32]

# Slots of one group read the same hidden state. The groups follow one another, so that a bound on a direction
# holds for what leaves the site.
Group = Literal["add", "sae", "direction"]
GROUPS: tuple[Group, ...] = ("add", "sae", "direction")
SCALARS = ("bias", "threshold", "gain", "offset", "low", "high", "least")  # of a slot that reads
EPSILON = 1e-5  # that SAELens adds to the standard deviation of a row, for layer_norm


def length_of(direction: Floats) -> float:
    """In float64: the squares of numbers of float32 are too large or too small for float32 itself."""
    return float(np.linalg.norm(direction.astype(np.float64)))


@dataclass(frozen=True, slots=True)
class Shape:
    """The function of a that a mode amounts to: clip(gain · a + offset, low, high)."""

    gain: float
    offset: float
    low: float = -inf
    high: float = inf


@dataclass(frozen=True, slots=True, eq=False)
class Rank:
    """The encoder of a topk SAE, of which an activation counts only if it is among the row's k largest."""

    digest: bytes
    encoder: Floats = field(repr=False)  # [width, features], for h after ρ
    bias: Floats = field(repr=False)  # [features]
    k: int
    normalization: Normalization = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    group: Group
    write: Floats = field(repr=False)  # [width]
    shape: Shape
    read: Floats | None = field(default=None, repr=False)  # [width]; None with `add`
    bias: float = 0.0
    threshold: float = -inf
    only_if_active: bool = False  # Δ = 0 where a ≤ 0
    normalization: Normalization = "none"
    rank: Rank | None = None  # of topk
    key: bytes = b""  # 16 bytes: a hash of all the above

    def __post_init__(self) -> None:
        assert (self.read is None) == (self.group == "add")
        object.__setattr__(self, "key", self._digest())

    @property
    def scalars(self) -> tuple[float, ...]:
        """The slot's numbers, in the order of SCALARS."""
        shape, least = self.shape, 0.0 if self.only_if_active else -inf
        return self.bias, self.threshold, shape.gain, shape.offset, shape.low, shape.high, least

    def _digest(self) -> bytes:
        digest = blake2b(digest_size=16)
        numbers = (self.shape.gain, self.shape.offset, self.shape.low, self.shape.high)
        text = (self.group, *numbers, self.bias, self.threshold, self.only_if_active, self.normalization)
        digest.update(repr(text).encode())
        for array in (self.write, self.read):
            digest.update(b"\0" if array is None else array.tobytes())
        if self.rank is not None:
            digest.update(self.rank.digest)
        return digest.digest()


@dataclass(frozen=True, slots=True, eq=False)
class SiteNeeds:
    """What a runner must be able to do at one layer. `normalizes`: apply SAEs with a normalization; `ranks`:
    the encoders of the topk SAEs that are attached there.
    """

    layer: int
    normalizes: bool = False
    ranks: tuple[Rank, ...] = field(default=(), repr=False)

    def meets(self, other: SiteNeeds) -> bool:
        """Whether a runner that meets these needs meets the others, too."""
        digests = {rank.digest for rank in self.ranks}
        return self.normalizes >= other.normalizes and all(rank.digest in digests for rank in other.ranks)
