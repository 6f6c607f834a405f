"""The parts of an answer that the parser emits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

WHITESPACE = " \t\r\n"  # JSON's


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """The model calls the tool of this name. Its CallArguments and one CallEnd follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of the call's arguments."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The end of the call, or of an answer that was cut off within it."""


Part = Text | CallBegin | CallArguments | CallEnd


def merged(parts: Iterable[Part]) -> list[Part]:
    """Join neighbouring parts of one kind, and drop empty ones."""
    result: list[Part] = []
    for kind, group in itertools.groupby(parts, type):
        if kind is Text or kind is CallArguments:
            joined = "".join(part.text for part in group if isinstance(part, Text | CallArguments))
            result += [kind(joined)] if joined else []
        else:
            result += group
    return result
