"""Reads one call character by character: a JSON object that names a tool, or only the arguments where the
tool is known. The parts of an answer that the parser emits.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, str, T]  # receives one character with each `send`

WHITESPACE = " \t\r\n"  # JSON's
_PLAIN = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._")
_STRUCTURE = _PLAIN | frozenset(WHITESPACE + '{}[],:"')
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

ARGUMENTS = ("arguments", "parameters", "args", "input")  # names of the member with a call's arguments
# Members that a bare call begins with, or has after its `id`.
FIRST = ("name", "type", "function", *ARGUMENTS[:2], "id")


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


class MalformedCall(Exception):
    """The character cannot continue the call; it was not consumed."""


class CallReader:
    """Reads a call from its first brace on. `names`: the tool for each name that a model may write; `name`:
    the one that a header has named already.

    A `bare` object has no trigger before it, so it may be no call: it is one only if it begins with one of
    FIRST, and if its `type`, where it has one, is function.
    """

    def __init__(self, names: Mapping[str, str], *, name: str | None = None, bare: bool = False) -> None:
        self._names, self._is_bare = names, bare
        self._parts: list[Part] = []
        self._early: list[str] = []  # arguments that were read before the name
        self.is_named = False  # the tool is known: from now on this is a call, whatever follows
        self.has_arguments = False  # the arguments are complete
        if name is not None:
            self._begin(name)
        self._reading = self._object() if name is None else self._arguments_alone()
        next(self._reading)

    def push(self, character: str) -> bool:
        """Read a character. Returns whether the call is complete with it. Raises MalformedCall."""
        try:
            self._reading.send(character)
        except StopIteration:
            return True
        return False

    def take(self) -> list[Part]:
        """The parts since the last call of this method."""
        parts, self._parts = self._parts, []
        return parts

    def _object(self) -> Reading[None]:
        if (yield) != "{":
            raise MalformedCall
        yield from self._members()
        if not self.is_named:
            raise MalformedCall
        if not self.has_arguments:
            self._emit("{}")
        self._parts.append(CallEnd())

    def _members(self) -> Reading[None]:
        """Read the members of an object, after its brace."""
        character = yield from _space()
        is_first = True
        while True:
            if character != '"':
                raise MalformedCall
            key = yield from _string(FIRST if self._is_bare and is_first else None)
            is_first = is_first and key == "id"
            if (yield from _space()) != ":":
                raise MalformedCall
            character = yield from self._member(key, (yield from _space()))
            if character == "}":
                return
            if character != ",":
                raise MalformedCall
            character = yield from _space()

    def _member(self, key: str, character: str) -> Reading[str]:
        """Read a member's value. `character`: its first. Returns the first character after it that is no
        white space.
        """
        if key in ("name", "function") and not self.is_named and character == '"':
            self._begin((yield from _string(self._names)))
            return (yield from _space())
        if key == "function" and not self.is_named and character == "{":
            yield from self._members()
            return (yield from _space())
        if key == "name" and not self.is_named:
            raise MalformedCall
        if key == "type" and self._is_bare and not self.is_named:
            if character != '"':
                raise MalformedCall
            yield from _string(("function",))
            return (yield from _space())
        if key in ARGUMENTS and not self.has_arguments:
            after = yield from self._arguments(character)
            self.has_arguments = True
            return after
        return (yield from _value(character, lambda _: None))

    def _arguments(self, character: str) -> Reading[str]:
        if character == '"':
            yield from self._quoted()
            return (yield from _space())
        if character != "n":
            return (yield from _value(character, self._emit))
        self._emit("{}")  # null stands for no arguments
        return (yield from _value(character, lambda _: None))

    def _arguments_alone(self) -> Reading[None]:
        character = yield from _space()
        if character != "{":
            raise MalformedCall
        yield from _nested(character, self._emit)
        self._parts.append(CallEnd())

    def _quoted(self) -> Reading[None]:
        """Read arguments written as a string: emit its content if that is an object, or else the string
        itself.
        """
        raw = '"'
        while True:
            character = yield
            raw += character
            if character == '"':
                return self._emit("{}")
            piece = character
            if character == "\\":
                piece, source = yield from _escape(self._emit)
                raw += source
            if piece not in WHITESPACE:
                break
        if piece == "{":
            self._emit(piece)
            return (yield from self._unquoted())
        self._emit(raw)
        return (yield from _raw_string(self._emit))

    def _unquoted(self) -> Reading[None]:
        while (character := (yield)) != '"':
            if character == "\\":
                character, _ = yield from _escape(self._emit)
            self._emit(character)

    def _begin(self, name: str) -> None:
        if name not in self._names:
            raise MalformedCall
        self.is_named = True
        self._parts += [CallBegin(self._names[name]), *map(CallArguments, self._early)]

    def _emit(self, arguments: str) -> None:
        if self.is_named:
            self._parts.append(CallArguments(arguments))
        else:
            self._early.append(arguments)


def _space() -> Reading[str]:
    """Skip white space. Returns the next character."""
    while (character := (yield)) in WHITESPACE:
        pass
    return character


def _string(expected: Collection[str] | None = None) -> Reading[str]:
    """Read a string after its quote. Raises MalformedCall as soon as it cannot become one of `expected`."""
    raw, escaped = "", False
    while (character := (yield)) != '"' or escaped:
        if character < " ":
            raise MalformedCall
        escaped = character == "\\" and not escaped
        raw += character
        if expected is not None and "\\" not in raw and not any(name.startswith(raw) for name in expected):
            raise MalformedCall
    try:
        read: str = json.loads(f'"{raw}"')
    except ValueError:
        raise MalformedCall from None
    if expected is not None and read not in expected:
        raise MalformedCall
    return read


def _value(character: str, emit: Callable[[str], None]) -> Reading[str]:
    """Read any value and emit it as written. Returns the first character after it that is no white space."""
    if character in "{[":
        yield from _nested(character, emit)
    elif character == '"':
        emit(character)
        yield from _raw_string(emit)
    elif character in _PLAIN:
        while character in _PLAIN:
            emit(character)
            character = yield
        if character not in WHITESPACE:
            return character
    else:
        raise MalformedCall
    return (yield from _space())


def _nested(character: str, emit: Callable[[str], None]) -> Reading[None]:
    depth = 0
    while True:
        if character not in _STRUCTURE:
            raise MalformedCall
        emit(character)
        if character == '"':
            yield from _raw_string(emit)
        depth += (character in "{[") - (character in "}]")
        if depth == 0:
            return
        character = yield


def _raw_string(emit: Callable[[str], None]) -> Reading[None]:
    """Read a string up to its closing quote. Line breaks in it are not JSON, but some models write them."""
    escaped = False
    while True:
        character = yield
        emit(character)
        if character == '"' and not escaped:
            return
        escaped = character == "\\" and not escaped


def _escape(emit: Callable[[str], None]) -> Reading[tuple[str, str]]:
    """Read an escape after its backslash. Returns the character that it stands for, and the escape as
    written. A lone surrogate stays an escape: JSON may have it, text may not.
    """
    character = yield
    if character != "u":
        return _ESCAPES.get(character, character), character
    digits = ""
    while len(digits) < 4:
        character = yield
        if character not in "0123456789abcdefABCDEF":
            emit("\\u" + digits)
            raise MalformedCall
        digits += character
    code = int(digits, 16)
    return (f"\\u{digits}" if 0xD800 <= code < 0xE000 else chr(code)), f"u{digits}"
