"""Writes numbers for llguidance: with only as many digits as a reader's floating point represents exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from headrace.text.structured.faults import invalid, unsupported
from headrace.text.structured.keywords import Schema
from headrace.text.structured.record import Record

MAX_EXACT = 2**53  # beyond it neighbouring integers are the same float
MAX_MULTIPLE = 2**16
FRACTIONS = (0.5, 0.25, 0.125)  # exact floats, whose multiples validators recognise
# (magnitude, smallest step below it): 15 digits, which a float keeps, then integers.
TIERS = ((10**6, 1e-9), (10**12, 1e-3), (MAX_EXACT, 1))


def number_schemas(record: Record) -> list[Schema]:
    """The alternatives. Raises UnsupportedSchema, InvalidSchema."""
    low, high = _sides(record)
    if (low is not None and low[0] > MAX_EXACT) or (high is not None and high[0] < -MAX_EXACT):
        name = "minimum" if low is not None and low[0] > MAX_EXACT else "maximum"
        raise unsupported(f"{record.path}.{name}", "beyond ±2^53, where floats are not exact")
    steps = [_multiple(step, path) for step, path in record.multiples]
    is_integer = record.is_integer or any(isinstance(step, int) for step in steps)
    if is_integer:
        steps = [step for step in steps if isinstance(step, int)]
        return _whole(low, high, math.lcm(*map(int, steps)) if steps else 1, record.path)
    if steps:
        return list(_between(low, high, MAX_EXACT, max(steps)))
    return [schema for most, step in TIERS for schema in _between(low, high, most, step)]


Side = tuple[float, bool] | None  # (bound, whether it is exclusive)


def _sides(record: Record) -> tuple[Side, Side]:
    bound = record.bounds.get
    low = max(
        (
            (value, name.startswith("ex"))
            for name in ("minimum", "exclusiveMinimum")
            if (value := bound(name)) is not None
        ),
        default=None,
    )
    high = min(
        (
            (value, not name.startswith("ex"))
            for name in ("maximum", "exclusiveMaximum")
            if (value := bound(name)) is not None
        ),
        default=None,
    )
    return low, None if high is None else (high[0], not high[1])


def _whole(low: Side, high: Side, step: int, path: str) -> list[Schema]:
    if step >= MAX_MULTIPLE:
        raise unsupported(path, f"multipleOf: {step} is {MAX_MULTIPLE} or more")
    least = -MAX_EXACT if low is None else math.floor(low[0]) + 1 if low[1] else math.ceil(low[0])
    most = MAX_EXACT if high is None else math.ceil(high[0]) - 1 if high[1] else math.floor(high[0])
    least, most = -(-max(least, -MAX_EXACT) // step), min(most, MAX_EXACT) // step
    if least > most:
        return []
    found: Schema = {"type": "integer", "minimum": least * step, "maximum": most * step}
    return [found | ({"multipleOf": step} if step > 1 else {})]


def _between(low: Side, high: Side, most: float, step: float) -> Iterator[Schema]:
    """The nodes of numbers within the bounds, of magnitude `most` or less, in multiples of `step`."""
    if (low is not None and low[0] > most) or (high is not None and high[0] < -most):
        return
    if step == 1:
        yield from _whole(low, high, 1, "")
        return
    found: Schema = {"type": "number"}
    if low is None or low[0] < -most:
        low = (-most, False)
    if high is None or high[0] > most:
        high = (most, False)
    found["exclusiveMinimum" if low[1] else "minimum"] = _plain(low[0])
    found["exclusiveMaximum" if high[1] else "maximum"] = _plain(high[0])
    yield found | {"multipleOf": step}


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
