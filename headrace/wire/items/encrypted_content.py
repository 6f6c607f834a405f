"""`encrypted_content`: opaque text that clients store and send back. Headrace only encodes it: the content is
not secret to its caller, and not authenticated.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from headrace.types import Thought

VERSION = 1
# The first 15 bytes of what `_seal` encodes: what begins otherwise is not decoded, however long it is.
BEGINNING = base64.b64encode(f'{{"headrace": {VERSION},'.encode()).decode()


def seal_thoughts(thoughts: Sequence[Thought]) -> str:
    return _seal({"thoughts": [[thought.text, thought.signature, thought.redacted] for thought in thoughts]})


def seal_summary(summary: str) -> str:
    return _seal({"summary": summary})


def thoughts_in(sealed: str | None) -> tuple[Thought, ...]:
    """Decode thoughts; empty for text that another server wrote."""
    try:
        return tuple(
            Thought(str(text), _text(signature), _text(redacted))
            for text, signature, redacted in _opened(sealed).get("thoughts", ())
        )
    except (TypeError, ValueError):
        return ()


def summary_in(sealed: str) -> str | None:
    """Decode a summary; None for text that another server wrote."""
    return _text(_opened(sealed).get("summary"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seal(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps({"headrace": VERSION, **value}).encode()).decode()


def _opened(sealed: str | None) -> dict[str, Any]:
    if not sealed or not sealed.startswith(BEGINNING):
        return {}
    try:
        value = from_json(base64.b64decode(sealed, validate=True))
    except ValueError:
        return {}
    return value if isinstance(value, dict) and value.get("headrace") == VERSION else {}
