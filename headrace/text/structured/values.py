"""Writes numbers, strings, literal values and sizes for llguidance."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from headrace.text.structured import patterns
from headrace.text.structured.alternative import EXPRESSION, SIZES, Alternative, Side
from headrace.text.structured.formats import FORMATS, LIBRARY_FORMATS
from headrace.text.structured.keywords import Schema, invalid, unsupported
from headrace.text.structured.lookarounds import translated

# Higher upper bounds are lowered to these, higher lower bounds refused.
MAX_SIZES = {"string": 1_000_000, "array": 1_000, "object": 1_000}
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
MAX_EXACT = 2**53  # beyond it neighbouring integers are the same float
MAX_MULTIPLE = 2**16
FRACTIONS = (0.5, 0.25, 0.125)  # exact floats, whose multiples validators recognise
# (magnitude, smallest step below it): 15 digits, which a float keeps, then integers.
TIERS = ((10**6, 1e-9), (10**12, 1e-3), (MAX_EXACT, 1))
MAX_PATTERN, MAX_PATTERNS = 4_000, 50_000  # characters of one and of all: compiling takes quadratic time
MAX_TOGETHER = 12  # expressions for one string: looking for a text of all takes exponential time


def one_of(values: list[Any], path: str) -> Schema:
    """The node of these values. Raises UnsupportedSchema."""
    for value in values:
        check_values(value, path)
    return {"const": values[0]} if len(values) == 1 else {"enum": values}


def sizes(one: Alternative, kind: str) -> Schema:
    """The bounds of the size of strings or arrays. Raises UnsupportedSchema."""
    least, most = one.size(kind)
    limit, name = MAX_SIZES[kind], SIZES[kind]
    if least > limit:
        raise unsupported(f"{one.path}.min{name}", f"more than {limit} is not supported")
    result: Schema = {f"min{name}": least} if least > 0 else {}
    return result | ({f"max{name}": int(min(most, limit))} if most < math.inf else {})


def check_values(value: object, path: str) -> None:
    """Raise UnsupportedSchema if the value, or one inside it, cannot be written exactly."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            check_values(item, path)
    elif isinstance(value, str) and _CONTROL.search(value):
        raise unsupported(path, f"{value!r} has a control character that has no short escape in JSON")
    elif isinstance(value, int) and abs(value) > MAX_EXACT:
        raise unsupported(path, f"{value!r} is beyond ±2^53, where floats are not exact")


def number_nodes(one: Alternative, excluded: list[float]) -> list[Schema]:
    """The nodes of the intervals between excluded numbers. Raises UnsupportedSchema, InvalidSchema."""
    nodes: list[Schema] = []
    for low, high in itertools.pairwise([None, *sorted(set(excluded)), None]):
        words = ({"exclusiveMinimum": low} if low is not None else {}) | (
            {"exclusiveMaximum": high} if high is not None else {}
        )
        piece = one.narrowed(words)
        nodes += _interval(piece) if "number" in piece.kinds else []
    return nodes


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


class Strings:
    """Writes the strings of one schema."""

    def __init__(self) -> None:
        self._num_characters = 0  # of patterns

    def node(self, one: Alternative, excluded: list[str]) -> Schema:
        """The node of an alternative's strings. Raises UnsupportedSchema."""
        result: Schema = {"type": "string", **sizes(one, "string")}
        expressions = one.every(EXPRESSION)
        for pattern, path in dict(reversed(one.located("pattern"))).items():
            expressions += self.translated(pattern, path)
        for name, path in one.located("format"):
            expressions += FORMATS.get(name, ())
            own = LIBRARY_FORMATS.get(name)
            if own and result.setdefault("format", own) != own:
                raise unsupported(path, f"both {own!r} and {result['format']!r}")
        if excluded:
            expressions.append(other_than(excluded, one.path))
        expressions = list(dict.fromkeys(expressions))
        if len(expressions) > MAX_TOGETHER:
            raise unsupported(one.path, f"more than {MAX_TOGETHER} expressions for one string")
        if expressions:
            result["pattern"] = expressions[0]
        if len(expressions) > 1:
            result["allOf"] = [{"pattern": pattern} for pattern in expressions[1:]]
        return result

    def translated(self, pattern: str, path: str) -> list[str]:
        """Translate a pattern to expressions that must all be found. Raises UnsupportedSchema."""
        self._num_characters += len(pattern)
        if len(pattern) > MAX_PATTERN or self._num_characters > MAX_PATTERNS:
            limits = f"{MAX_PATTERN} characters, or {MAX_PATTERNS} together with others"
            raise unsupported(path, f"an expression longer than {limits}")
        try:
            expressions = translated(pattern)
        except patterns.Untranslatable as exc:
            raise unsupported(path, f"{pattern[:100]!r}: {exc}") from exc
        for reason in filter(None, map(patterns.problem, expressions)):
            raise unsupported(path, f"{pattern[:100]!r}: {reason}")
        return expressions

    def name_pattern(self, names: Alternative, path: str) -> str:
        """An expression for names; "": all. Raises UnsupportedSchema."""
        node = self.node(names, names.excluded("string"))
        if "format" in node or "allOf" in node:
            raise unsupported(path, "names that must satisfy several conditions")
        least, most = node.get("minLength", 0), node.get("maxLength")
        if (least, most) == (0, None):
            return str(node.get("pattern", ""))
        if "pattern" not in node:
            return f"^(?s:.){{{least},{'' if most is None else min(most, 1000)}}}$"
        pattern = patterns.sized(node["pattern"], least, most)
        if pattern is None:
            raise unsupported(path, "a pattern and a length")
        return pattern


def other_than(others: list[str], path: str) -> str:
    """An expression for all texts other than these. Raises UnsupportedSchema."""
    try:
        return patterns.other_than(others)
    except patterns.Untranslatable as exc:
        raise unsupported(path, str(exc)) from exc
