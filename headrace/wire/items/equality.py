"""Whether two items say the same, so that a history that is sent again is recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.wire.items.build import Item

# what a server adds, or a client leaves out
BESIDES = {"id", "status", "phase", "created_by", "encrypted_content", "summary"}


def same(stored: Item, sent: Item) -> bool:
    """Whether both say the same, whatever their ids and statuses are, and however their text is cut into
    parts. Clients often trim what a model said.
    """
    return told(stored) == told(sent)


def told(item: Item) -> bytes:
    """What an item says, as a hash: equal for items that are the same."""
    said = {name: _value(name, value) for name, value in item.items() if name not in BESIDES}
    try:
        written = json.dumps(said, sort_keys=True)
    except RecursionError:  # of arguments that are nested as deep as can be read
        written = json.dumps({**said, "arguments": item["arguments"]}, sort_keys=True)
    return hashlib.sha256(written.encode()).digest()


def _value(name: str, value: Any) -> Any:
    if name in ("content", "output"):
        return _parts(value or "")
    return _parsed(value) if name == "arguments" else value


def _parts(content: str | Sequence[Mapping[str, Any]]) -> list[Any]:
    """Texts joined, and what lies between them."""
    if isinstance(content, str):
        return [content.strip()] if content.strip() else []
    said: list[Any] = [""]
    for part in content:
        text = part.get("text", part.get("refusal"))
        if text is None:
            said += [{name: value for name, value in part.items() if name != "detail"}, ""]
        else:
            said[-1] += text
    trimmed = [part.strip() if isinstance(part, str) else part for part in said]
    return [part for part in trimmed if part]


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}", parse_float=_number)
    except (ValueError, RecursionError):
        return arguments


def _number(text: str) -> float | int:
    """1.0 is 1: JavaScript writes it so."""
    value = float(text)
    return int(value) if value.is_integer() else value
