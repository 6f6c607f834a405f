"""The members of a large JSON object, of which only the small values are parsed."""

from __future__ import annotations

import re
from typing import Any

from headrace.dialects.values import Object, parsed

MAX_VALUE = 2**16  # bytes of a member's value that is parsed
TOKEN = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL
)  # a string, a bracket, or a string's half
BLANKS = b" \t\r\n"
BOM = b"\xef\xbb\xbf"


def outline(raw: bytes) -> Object:
    """The members of the object, in which a value of more than MAX_VALUE bytes is None, unless it is an
    error. Raises ValueError if `raw` is no object, or breaks off.
    """
    raw = raw.removeprefix(BOM).strip(BLANKS)
    depth, names, end = 0, list[tuple[int, int]](), 0  # names: (start, end) of each member's name
    for token in TOKEN.finditer(raw):
        mark = raw[token.start()]
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            end = token.end()
        elif token.end() == token.start() + 1:
            raise ValueError("a string does not end")
        elif depth == 1 and _is_name(raw, token.end()):
            names.append(token.span())
        if depth == 0:
            break
    if depth or not end or raw[:1] != b"{" or raw[end:].strip(BLANKS):
        raise ValueError("it is no whole object")
    ends = [*(start for start, _ in names), end - 1][1:]
    found: Object = {}
    for (start, name_end), value_end in zip(names, ends, strict=True):
        name = str(parsed(raw[start:name_end]))
        is_read = name == "error" or value_end - name_end <= MAX_VALUE
        found[name] = _value(raw[name_end:value_end]) if is_read else None
    return found


def _is_name(raw: bytes, at: int) -> bool:
    return raw[at : at + 64].lstrip(BLANKS).startswith(b":")


def _value(between: bytes) -> Any:
    """The value between a name and the next name, or the object's end."""
    return parsed(between.strip(BLANKS).removeprefix(b":").removesuffix(b","))
