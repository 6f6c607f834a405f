"""Durations as Ollama's callers write them: a number of seconds, or a text such as `5m` or `1h30m`."""

from __future__ import annotations

import math
import re

from headrace.errors import BadRequest
from headrace.wire.limits import shown

SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
PIECE = re.compile(r"(\d{1,12}(?:\.\d{0,9})?)(h|ms|m|s|us|µs|ns)", re.ASCII)
WHOLE = re.compile(r"[+-]?(?:\d{1,12}(?:\.\d{0,9})?(?:h|ms|m|s|us|µs|ns)?)+", re.ASCII)


def seconds(value: float | str, param: str) -> float:
    """A duration in seconds; infinity for a negative one, which means "for ever". Raises BadRequest."""
    if isinstance(value, str):
        value = _parsed(value, param)
    return math.inf if value < 0 else value


def _parsed(text: str, param: str) -> float:
    if len(text) > 60 or not WHOLE.fullmatch(text):
        raise BadRequest.at(param, f"{shown(text)} is no duration; write seconds, or a text such as 5m")
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    pieces = PIECE.findall(digits)
    if not pieces:
        return sign * float(digits)
    if "".join(number + unit for number, unit in pieces) != digits:
        raise BadRequest.at(param, f"{shown(text)} is no duration: a number lacks its unit")
    return sign * sum(float(number) * SECONDS[unit] for number, unit in pieces)
