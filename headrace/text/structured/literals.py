"""Writes literal values and sizes for llguidance."""

from __future__ import annotations

import re
from typing import Any

from headrace.text.structured.faults import unsupported
from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.numbers import MAX_EXACT
from headrace.text.structured.record import Record

MAX_ITEMS, MAX_LENGTH = (
    1_000,
    1_000_000,
)  # larger upper bounds are lowered to these, larger lower bounds refused
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def flags(excluded: list[Any]) -> list[Node]:
    """The nodes of the booleans that are not excluded."""
    left = [flag for flag in (False, True) if flag not in excluded]
    return [{"type": "boolean"}] if len(left) == 2 else [{"const": flag} for flag in left]


def one_of(values: list[Any], path: str) -> Schema:
    """The node of these values. Raises UnsupportedSchema."""
    for value in values:
        check_values(value, path)
    return {"const": values[0]} if len(values) == 1 else {"enum": values}


def sizes(record: Record, least: str, most: str, limit: int) -> Schema:
    """The bounds named `least` and `most`, within the limit. Raises UnsupportedSchema."""
    result: Schema = {}
    low, high = record.bounds.get(least, 0), record.bounds.get(most)
    if low > limit:
        raise unsupported(f"{record.path}.{least}", f"more than {limit} is not supported")
    if low > 0:
        result[least] = int(low)
    if high is not None:
        result[most] = int(min(high, limit))
    return result


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
