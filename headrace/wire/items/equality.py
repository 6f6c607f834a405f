"""Compares the content of items, to recognize a history that a client sends again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.offload import check_wanted
from headrace.wire.items.build import Item

# members that a server adds or a client leaves out
BESIDES = {"id", "status", "phase", "created_by", "encrypted_content", "summary"}


def content_hash(item: Item) -> bytes:
    """Hash an item's content. Ids, statuses, the division of text into parts and white space around it do not
    count: clients often trim texts.
    """
    check_wanted()
    content = {name: _value(name, value) for name, value in item.items() if name not in BESIDES}
    try:
        written = json.dumps(content, sort_keys=True)
    except RecursionError:  # deeply nested arguments; their text is hashed instead
        written = json.dumps({**content, "arguments": item["arguments"]}, sort_keys=True)
    return hashlib.sha256(written.encode()).digest()


def _value(name: str, value: Any) -> Any:
    if name in ("content", "output"):
        return _parts(value or "")
    return _parsed(value) if name == "arguments" else value


def _parts(content: str | Sequence[Mapping[str, Any]]) -> list[Any]:
    """Join adjacent texts; other parts stay between them."""
    if isinstance(content, str):
        return [content.strip()] if content.strip() else []
    joined: list[Any] = [""]
    for part in content:
        text = part.get("text", part.get("refusal"))
        if text is None:
            joined += [{name: value for name, value in part.items() if name != "detail"}, ""]
        else:
            joined[-1] += text
    trimmed = [part.strip() if isinstance(part, str) else part for part in joined]
    return [part for part in trimmed if part]


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}", parse_float=_number)
    except (ValueError, RecursionError):
        return arguments


def _number(text: str) -> float | int:
    """Read 1.0 as 1, which JavaScript writes for it."""
    value = float(text)
    return int(value) if value.is_integer() else value
