"""The limits of what a body may contain, and counting its JSON before it is parsed: the parser would hold the
interpreter lock, and build all values before any limit is checked.

docs/limits.md describes each limit; tests/wire/test_limits.py checks that every list and mapping of every
body has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema, from_json

from headrace.errors import BadRequest
from headrace.finite import STRING
from headrace.offload import check_wanted

# Of a whole body, counted before it is parsed (see Volume). The parser takes some 40 ms for a body
# at these limits.
MAX_VALUES = 400_000  # JSON values, such as token ids
MAX_MEMBERS = 80_000  # members of objects
MAX_CONTAINERS = 30_000  # objects and lists
MAX_DIGITS = 4 * 2**20  # characters of numbers and literals

MAX_MESSAGES = 10_000  # also items of a response's input, and stored items referred to
MAX_PARTS = 2_000  # content parts, content blocks, thinking blocks or annotations of one message
MAX_CALLS = 1_000  # tool calls of one message
MAX_TOOLS = 1_000
MAX_STOPS = 4  # OpenAI's
MAX_STOP_SEQUENCES = 64  # in Anthropic's dialect
MAX_STOP = 4_096  # characters of one
MAX_STOP_TOKENS = 1_024
MAX_BIASES = 10_000
MAX_CHOICES = 10_000  # of guided_choice
MAX_VARIABLES = 128  # of chat_template_kwargs
MAX_VARIABLE_VALUES = 10_000  # in all variables together, at any depth
MAX_INCLUDED = 100
MAX_TOKENS = MAX_VALUES  # token ids in one list
MAX_PROMPTS = 1_024
MAX_INPUTS = 2_048  # OpenAI's, of embeddings
MAX_OPS = 64  # edits of one request, and of one profile
MAX_LAYERS = 256  # of one edit
MAX_DIRECTION = 2**20  # characters of base64 of one direction
MAX_SWEEP = 128  # OpenAI's limit of n
MAX_PROBES = 8
MAX_PROBED = 256  # features that one probe names
MAX_TOP_FEATURES = 64  # top_k of one probe
MAX_DOCUMENTS = 1_024  # of rerank

SHOWN = 100  # characters of a caller's value that an error repeats

SLICE = 64 * 1024  # bytes that are counted in one step; other threads run between steps
PUNCTUATION = b"{}[],: \t\r\n"
TOKEN = re.compile(rf"{STRING}|[{{}}\[\]:]".encode(), re.DOTALL)


def at_most(limit: int, *, least: int = 0) -> Any:
    """The annotation of a list with `least` to `limit` entries, validated up to its first invalid entry."""
    return Field(min_length=least or None, max_length=limit, fail_fast=True)


def shown(value: object) -> str:
    """A caller's value, shortened for an error message."""
    text = value[: SHOWN + 1] if isinstance(value, str) else str(value)[: SHOWN + 1]
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def whole(text: str, num_digits: int) -> int | None:
    """The number that at most `num_digits` ASCII digits write; None for any other text. int() alone also
    reads signs, spaces, underscores and the digits of other scripts.
    """
    return int(text) if len(text) <= num_digits and text.isascii() and text.isdecimal() else None


class Pairs:
    """A mapping of at most `limit` pairs, validated up to the first invalid one: the validator of a plain
    `dict[str, T]` builds an error for each. `check` raises BadRequest.
    """

    def __init__(self, limit: int, check: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.limit, self._check = limit, check

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        handler(source)  # fails for an invalid type
        pairs = core_schema.dict_schema(
            core_schema.str_schema(strict=True), core_schema.any_schema(), max_length=self.limit
        )
        if self._check is None:
            return pairs
        return core_schema.no_info_after_validator_function(self._checked, pairs)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema)

    def _checked(self, value: dict[str, Any]) -> dict[str, Any]:
        assert self._check is not None
        self._check(value)
        return value


class Volume:
    """Counts values, members and containers outside of strings, slice by slice. Counts of invalid JSON mean
    nothing: the parser stops at the error.
    """

    def __init__(self) -> None:
        self.values, self.members, self.containers, self.digits = 1, 0, 0, 0
        self._in_string = False
        self._is_escaped = False  # whether a backslash escapes the next byte

    def add(self, piece: bytes) -> None:
        piece = piece[1:] if self._is_escaped else piece
        num_backslashes = len(piece) - len(piece.rstrip(b"\\"))
        self._is_escaped = num_backslashes % 2 == 1
        # after escapes are removed, every quote begins or ends a string
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        opened = outside.count(b"{") + outside.count(b"[")
        self.values += outside.count(b",") + opened
        self.members += outside.count(b":")
        self.containers += opened
        self.digits += len(outside.translate(None, PUNCTUATION))

    @property
    def excess(self) -> str | None:
        """The limit that is exceeded, in words; None if none is."""
        for count, limit, name in (
            (self.containers, MAX_CONTAINERS, "objects and lists"),
            (self.members, MAX_MEMBERS, "members of objects"),
            (self.values, MAX_VALUES, "values"),
            (self.digits, MAX_DIGITS, "characters of numbers"),
        ):
            if count > limit:
                return f"more than {limit:,} {name}"
        return None


def checked_volume(raw: bytes) -> Volume:
    """Count a body's JSON. Raises BadRequest, whose `param` is the member that exceeds a limit."""
    volume = Volume()
    for start in range(0, len(raw), SLICE):
        check_wanted()
        volume.add(raw[start : start + SLICE])
        if volume.excess is not None:
            param = _member(raw[: start + SLICE])
            raise BadRequest.at(param, f"a body may not hold {volume.excess}")
    return volume


def _member(beginning: bytes) -> str:
    """The name of the body's member in which `beginning` ends. A search token by token lets other threads
    run, unlike a parser.
    """
    name, depth, last = b"", 0, b""
    for match in TOKEN.finditer(beginning):
        token = match[0]
        if token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
        elif token == b":" and depth == 1:
            name = last
        last = token
    try:
        return str(from_json(name))[:SHOWN] if name else "body"
    except ValueError:
        return "body"
