"""Reads text and reasoning in any shape in which a provider sends them, in any dialect: strings, numbers, and
parts of either kind. What can be neither is left out, which the log says.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from headrace.dialects.values import Object, dumped, word

log = logging.getLogger(__name__)

THOUGHTS = frozenset(("thinking", "reasoning", "reasoning.text", "reasoning.summary", "reasoning_text"))
WITHOUT_TEXT = frozenset(("reference", "reasoning.encrypted", "redacted_thinking"))  # types of parts
# members of a part with its text, and with its reasoning; the first that is not empty counts
OF_TEXT = ("text", "refusal", "content", "output_text")
OF_THOUGHT = ("thinking", "text", "summary", "reasoning", "content")
MAX_DEPTH = 20  # of parts within parts


def texts(provider: str, value: object, depth: int = MAX_DEPTH) -> tuple[str, str]:
    """Return the text and the reasoning in a value. Both may end with half of a surrogate pair."""
    if value is None or isinstance(value, str):
        return value or "", ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return dumped(value), ""
    if isinstance(value, dict) and depth:
        return _part(provider, value, depth - 1)
    if isinstance(value, list) and depth:
        pairs = [texts(provider, part, depth - 1) for part in value]
        return "".join(text for text, _ in pairs), "".join(thought for _, thought in pairs)
    if value is not False:
        left_out(provider, f"a text of type {type(value).__name__}")
    return "", ""


def all_text(provider: str, value: object) -> str:
    """As `texts`, where both kinds are the same."""
    return "".join(texts(provider, value))


def _part(provider: str, part: Object, depth: int) -> tuple[str, str]:
    kind = word(part.get("type"))
    if kind in THOUGHTS:
        return "", "".join(texts(provider, _first(part, OF_THOUGHT), depth))
    if any(name in part for name in OF_TEXT):
        return texts(provider, _first(part, OF_TEXT), depth)
    if kind not in WITHOUT_TEXT:
        left_out(provider, f"a part of type {kind[:50]!r}")
    return "", ""


def _first(part: Object, names: tuple[str, ...]) -> object:
    return next((part[name] for name in names if part.get(name)), None)


@lru_cache(maxsize=64)
def left_out(provider: str, what: str) -> None:
    """Log a warning, once for each kind: a provider may send it with every chunk."""
    log.warning("%s: %s is left out of its answers", provider, what)
