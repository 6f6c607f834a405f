"""Phrases: which token a model usually writes after others, counted in answers that it gave before.

The counts are made of a file of such answers (`python -m tools.phrases`), a list of tokens.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ORDER = 3  # tokens of an ending at most
BITS = 16  # of a token's number: three of an ending, and the one after it, are one number of 64 bits
# Tokens that are added to the count of those that followed something else: what was seen once proves little.
DOUBT = 1.5
CLASSES = 10  # of phrases, by the share that the most frequent next token has

log = logging.getLogger(__name__)
Numbers = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Table:
    """All endings of one length, ascending; what followed most often, and the class of its share."""

    endings: Numbers
    following: NDArray[np.uint32]
    classes: NDArray[np.uint8]


class Phrases:
    """The counts of a text."""

    def __init__(self, text: NDArray[np.uint32]) -> None:
        known, numbers = np.unique(text, return_inverse=True)
        assert len(known) <= 2**BITS, "a token's number has 16 bits"
        self._numbers = {token: number for number, token in enumerate(known.tolist())}
        self._tables = [_count(numbers.astype(np.uint64), length, known) for length in range(1, ORDER + 1)]

    def find(self, ending: list[int]) -> tuple[int, int] | None:
        """The likeliest token after `ending`, and its class. Of endings of several lengths the one counts
        that leaves the least doubt; among equals, the longest.
        """
        best, key = None, 0
        for back, table in zip(range(len(ending)), self._tables, strict=False):
            number = self._numbers.get(ending[-1 - back])
            if number is None:
                break
            key |= number << BITS * back
            place = int(table.endings.searchsorted(np.uint64(key)))
            if place == len(table.endings) or int(table.endings[place]) != key:
                break
            if best is None or table.classes[place] >= best[1]:
                best = int(table.following[place]), int(table.classes[place])
        return best


def _count(numbers: Numbers, length: int, known: NDArray[np.uint32]) -> _Table:
    """Count what follows `length` of the tokens with these numbers."""
    places = len(numbers) - length
    packed = numbers[length:].copy()
    for back in range(length):
        first = length - 1 - back
        packed |= numbers[first : first + places] << np.uint64(BITS * (back + 1))
    pairs, counts = np.unique(packed, return_counts=True)
    endings = pairs >> np.uint64(BITS)
    begins = np.flatnonzero(np.diff(endings, prepend=np.uint64(2**64 - 1)))
    following = pairs & np.uint64(2**BITS - 1)
    ranked = (counts.astype(np.uint64) << np.uint64(BITS)) | following
    most = np.maximum.reduceat(ranked, begins)
    shares = (most >> np.uint64(BITS)) / (np.add.reduceat(counts, begins) + DOUBT)
    return _Table(
        endings[begins],
        known[most & np.uint64(2**BITS - 1)].astype(np.uint32),
        (shares * CLASSES).astype(np.uint8),
    )


def read(path: Path, vocabulary: int) -> Phrases | None:
    """The phrases of a file; None, with a warning, if it has none that a model of this vocabulary writes."""
    try:
        text = np.frombuffer(zlib.decompress(path.read_bytes()), "<u4")
    except (OSError, ValueError, zlib.error) as exc:
        log.warning("%s is not used for drafts: %s", path, exc)
        return None
    if len(text) <= ORDER or text.max() >= vocabulary or len(np.unique(text)) > 2**BITS:
        log.warning("%s is not used for drafts: it is of another model", path)
        return None
    return Phrases(text)


def write(path: Path, text: list[int]) -> None:
    path.write_bytes(zlib.compress(np.array(text, "<u4").tobytes(), 9))
