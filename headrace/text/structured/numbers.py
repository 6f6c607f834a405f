"""Writes numbers for llguidance: with only as many digits as a reader's floating point represents exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

from headrace.text.structured.alternative import Alternative, Side
from headrace.text.structured.faults import invalid, unsupported
from headrace.text.structured.keywords import Schema

MAX_EXACT = 2**53  # beyond it neighbouring integers are the same float
MAX_MULTIPLE = 2**16
FRACTIONS = (0.5, 0.25, 0.125)  # exact floats, whose multiples validators recognise
# (magnitude, smallest step below it): 15 digits, which a float keeps, then integers.
TIERS = ((10**6, 1e-9), (10**12, 1e-3), (MAX_EXACT, 1))


def number_nodes(one: Alternative, excluded: list[float]) -> list[Schema]:
    """The nodes of the intervals between excluded numbers. Raises UnsupportedSchema, InvalidSchema."""
    found: list[Schema] = []
    for low, high in itertools.pairwise([None, *sorted(set(excluded)), None]):
        words = ({"exclusiveMinimum": low} if low is not None else {}) | (
            {"exclusiveMaximum": high} if high is not None else {}
        )
        piece = one.narrowed(words)
        found += _interval(piece) if "number" in piece.kinds else []
    return found


def _interval(one: Alternative) -> list[Schema]:
    low, high = one.interval()
    if low[0] > MAX_EXACT or high[0] < -MAX_EXACT:
        name = "minimum" if low[0] > MAX_EXACT else "maximum"
        raise unsupported(f"{one.path}.{name}", "beyond ±2^53, where floats are not exact")
    steps = [_multiple(step, path) for step, path in one.located("multipleOf")]
    whole = [step for step in steps if isinstance(step, int)]
    if one.is_integer or whole:
        return _whole(low, high, math.lcm(*whole), one.path)
    tiers = [(MAX_EXACT, max(steps))] if steps else TIERS
    return [node for most, step in tiers for node in _between(low, high, most, step)]


def _whole(low: Side, high: Side, step: int, path: str) -> list[Schema]:
    """The node of the whole multiples of `step` between the bounds."""
    if step >= MAX_MULTIPLE:
        raise unsupported(path, f"multipleOf: {step} is {MAX_MULTIPLE} or more")
    least, most = max(low, (-MAX_EXACT, False)), min(high, (MAX_EXACT, False))
    first = math.floor(least[0]) + 1 if least[1] else math.ceil(least[0])
    last = math.ceil(most[0]) - 1 if most[1] else math.floor(most[0])
    first, last = -(-first // step) * step, last // step * step
    if first > last:
        return []
    return [
        {"type": "integer", "minimum": first, "maximum": last} | ({"multipleOf": step} if step > 1 else {})
    ]


def _between(low: Side, high: Side, most: int, step: float) -> Iterator[Schema]:
    """Yield the node of the multiples of `step` within the bounds and of magnitude `most` or less."""
    if step == 1:
        yield from _whole(low, high, 1, "")
    elif low[0] <= most and high[0] >= -most:
        low, high = max(low, (-most, False)), min(high, (most, False))
        yield {
            "type": "number",
            "exclusiveMinimum" if low[1] else "minimum": _plain(low[0]),
            "exclusiveMaximum" if high[1] else "maximum": _plain(high[0]),
            "multipleOf": step,
        }


def _plain(value: float) -> float:
    """Whole floats as integers: 5.0 as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _multiple(value: float, path: str) -> float:
    """A multiple of the value whose multiples validators recognise in binary floating point. Raises
    InvalidSchema, UnsupportedSchema.
    """
    exact = Fraction(str(value))
    if exact <= 0:
        raise invalid(path, f"{value!r} is not more than 0")
    for step in (*reversed(FRACTIONS), exact.numerator):
        if (Fraction(step) / exact).denominator == 1 and step < MAX_MULTIPLE:
            return step
    raise unsupported(path, f"{value!r} has no multiples of which computers are certain")
