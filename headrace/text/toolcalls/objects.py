"""Reads one call, a character at a time: a JSON object that names a tool, or the arguments of one that is
known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator
from typing import TypeVar

from headrace.text.toolcalls.parts import WHITESPACE, CallArguments, CallBegin, CallEnd, Part

T = TypeVar("T")
Reading = Generator[None, str, T]  # is sent one character after another

_PLAIN = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._")
_STRUCTURE = _PLAIN | frozenset(WHITESPACE + '{}[],:"')
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


FIRST = ("name", "type", "function", "parameters", "arguments")  # members that a bare call begins with


class Broken(Exception):
    """The character cannot go on the call; it was not taken."""


class CallReader:
    """Give it the call from its first brace on. `name` is set when a header has named the tool already. A
    `bare` object stands alone in the answer: one that begins with another member than calls do is none, and
    so is one of a `type` other than function.
    """

    def __init__(self, names: Collection[str], *, name: str | None = None, bare: bool = False) -> None:
        self._names, self._is_bare = names, bare
        self._parts: list[Part] = []
        self._early: list[str] = []  # arguments that came before the name
        self.has_begun = False  # the tool is known; from now on this is a call, whatever comes
        self.has_arguments = False  # and they are complete
        if name is not None:
            self._begin(name)
        self._reading = self._object() if name is None else self._arguments_alone()
        next(self._reading)

    def push(self, character: str) -> bool:
        """Whether the call is complete with this character. Raises Broken."""
        try:
            self._reading.send(character)
        except StopIteration:
            return True
        return False

    def take(self) -> list[Part]:
        """What is known since the last time."""
        parts, self._parts = self._parts, []
        return parts

    def _object(self) -> Reading[None]:
        if (yield) != "{":
            raise Broken
        yield from self._members()
        if not self.has_begun:
            raise Broken
        if not self.has_arguments:
            self._keep("{}")
        self._parts.append(CallEnd())

    def _members(self) -> Reading[None]:
        """Of an object, after its brace."""
        character = yield from _space()
        is_first = True
        while True:
            if character != '"':
                raise Broken
            key = yield from _string(FIRST if self._is_bare and is_first else None)
            is_first = False
            if (yield from _space()) != ":":
                raise Broken
            character = yield from self._member(key, (yield from _space()))
            if character == "}":
                return
            if character != ",":
                raise Broken
            character = yield from _space()

    def _member(self, key: str, character: str) -> Reading[str]:
        """Reads a value, given its first character; the result is the first one after it that is no space."""
        if key in ("name", "function") and not self.has_begun and character == '"':
            self._begin((yield from _string(self._names)))
            return (yield from _space())
        if key == "function" and not self.has_begun and character == "{":
            yield from self._members()
            return (yield from _space())
        if key == "name" and not self.has_begun:
            raise Broken
        if key == "type" and self._is_bare and not self.has_begun:
            if character != '"':
                raise Broken
            yield from _string(("function",))
            return (yield from _space())
        if key in ("arguments", "parameters") and not self.has_arguments:
            after = yield from self._arguments(character)
            self.has_arguments = True
            return after
        return (yield from _value(character, lambda _: None))

    def _arguments(self, character: str) -> Reading[str]:
        if character == '"':
            yield from self._quoted()
            return (yield from _space())
        if character != "n":
            return (yield from _value(character, self._keep))
        self._keep("{}")  # null: it takes none
        return (yield from _value(character, lambda _: None))

    def _arguments_alone(self) -> Reading[None]:
        character = yield from _space()
        if character != "{":
            raise Broken
        yield from _nested(character, self._keep)
        self._parts.append(CallEnd())

    def _quoted(self) -> Reading[None]:
        """A string: what is in it, if that is an object, else the string as it is."""
        raw = '"'
        while True:
            character = yield
            raw += character
            if character == '"':
                return self._keep("{}")
            piece = character
            if character == "\\":
                piece, source = yield from _escape(self._keep)
                raw += source
            if piece not in WHITESPACE:
                break
        if piece == "{":
            self._keep(piece)
            return (yield from self._unquoted())
        self._keep(raw)
        return (yield from _raw_string(self._keep))

    def _unquoted(self) -> Reading[None]:
        while (character := (yield)) != '"':
            if character == "\\":
                character, _ = yield from _escape(self._keep)
            self._keep(character)

    def _begin(self, name: str) -> None:
        if name not in self._names:
            raise Broken
        self.has_begun = True
        self._parts += [CallBegin(name), *map(CallArguments, self._early)]

    def _keep(self, arguments: str) -> None:
        if self.has_begun:
            self._parts.append(CallArguments(arguments))
        else:
            self._early.append(arguments)


def _space() -> Reading[str]:
    """The next character that is no white space."""
    while (character := (yield)) in WHITESPACE:
        pass
    return character


def _string(expected: Collection[str] | None = None) -> Reading[str]:
    """The rest of a string after its quote. Breaks as soon as it can be none of those expected."""
    raw, escaped = "", False
    while (character := (yield)) != '"' or escaped:
        if character < " ":
            raise Broken
        escaped = character == "\\" and not escaped
        raw += character
        if expected is not None and "\\" not in raw and not any(name.startswith(raw) for name in expected):
            raise Broken
    try:
        read: str = json.loads(f'"{raw}"')
    except ValueError:
        raise Broken from None
    if expected is not None and read not in expected:
        raise Broken
    return read


def _value(character: str, keep: Callable[[str], None]) -> Reading[str]:
    """Any value, as it is written. The result is as _member's."""
    if character in "{[":
        yield from _nested(character, keep)
    elif character == '"':
        keep(character)
        yield from _raw_string(keep)
    elif character in _PLAIN:
        while character in _PLAIN:
            keep(character)
            character = yield
        if character not in WHITESPACE:
            return character
    else:
        raise Broken
    return (yield from _space())


def _nested(character: str, keep: Callable[[str], None]) -> Reading[None]:
    depth = 0
    while True:
        if character not in _STRUCTURE:
            raise Broken
        keep(character)
        if character == '"':
            yield from _raw_string(keep)
        depth += (character in "{[") - (character in "}]")
        if depth == 0:
            return
        character = yield


def _raw_string(keep: Callable[[str], None]) -> Reading[None]:
    """To the closing quote. Line breaks in it are no JSON, but some models write them."""
    escaped = False
    while True:
        character = yield
        keep(character)
        if character == '"' and not escaped:
            return
        escaped = character == "\\" and not escaped


def _escape(keep: Callable[[str], None]) -> Reading[tuple[str, str]]:
    """What comes after a backslash: what it stands for, and how it was written. Half a surrogate pair stays
    an escape: JSON inside a string may hold it, text may not.
    """
    character = yield
    if character != "u":
        return _ESCAPES.get(character, character), character
    digits = ""
    while len(digits) < 4:
        character = yield
        if character not in "0123456789abcdefABCDEF":
            keep("\\u" + digits)
            raise Broken
        digits += character
    code = int(digits, 16)
    return (f"\\u{digits}" if 0xD800 <= code < 0xE000 else chr(code)), f"u{digits}"
