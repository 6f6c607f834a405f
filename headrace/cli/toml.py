"""Writes values as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

BARE = re.compile(r"[A-Za-z0-9_-]+")


def key(name: str) -> str:
    return name if BARE.fullmatch(name) else text(name)


def text(value: str) -> str:
    """A basic string on one line: unprintable characters escaped, lone surrogates replaced."""
    whole = value.encode("utf-8", "replace").decode()
    quoted = json.dumps(whole, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)


def written(value: object) -> str:
    """A boolean, number, text, path, list or mapping, on one line. Raises TypeError for other types."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (str, Path)):
        return text(str(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key(name)} = {written(below)}" for name, below in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    raise TypeError(f"{type(value).__name__} is not written in TOML")
