"""Writes literal values and sizes for llguidance."""

from __future__ import annotations

import math
import re
from typing import Any

from headrace.text.structured.alternative import SIZES, Alternative
from headrace.text.structured.faults import unsupported
from headrace.text.structured.keywords import Schema
from headrace.text.structured.numbers import MAX_EXACT

# Higher upper bounds are lowered to these, higher lower bounds refused.
MAX_SIZES = {"string": 1_000_000, "array": 1_000, "object": 1_000}
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


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
