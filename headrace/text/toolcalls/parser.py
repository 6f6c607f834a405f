"""Reads an answer as it comes, in pieces of any size: text, and calls in one of the formats.

It goes character by character, so what comes out cannot depend on the pieces. Held back is only what is
not decided: white space that may stand before a call, the beginning of a marker, a call that has not named
its tool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.text.stops import overlap
from headrace.text.toolcalls.formats import ToolFormat
from headrace.text.toolcalls.objects import Broken, CallReader
from headrace.text.toolcalls.parts import WHITESPACE, CallArguments, CallEnd, Part, Text, merged
from headrace.types import Tool

_MAX_HEADER = 200  # characters between the trigger and the tag


class Parser:
    """What turns out not to be a call is text, unchanged; white space around calls is dropped. Once a call's
    name is out, what follows is that call's, up to its end.
    """

    def __init__(self, format: ToolFormat, tools: Sequence[Tool]) -> None:
        self._format = format
        self._names = frozenset(tool.name for tool in tools)
        self._parts: list[Part] = []
        self._space: list[str] = []  # held back: white space that may stand before a call
        self._held = ""  # and after that the beginning of a marker, or of a call
        self._state: Callable[[str], None] = self._in_text
        self._reader: CallReader | None = None
        self._at_start = True  # of the answer, white space aside
        self._after_call = False  # and since then nothing but white space and closing marks
        self._is_open = False  # the group of calls, so that another may follow without a trigger

    def push(self, text: str) -> list[Part]:
        """What is known now."""
        for character in text:
            self._state(character)
        return self._taken()

    def flush(self, *, is_cut: bool = False, is_forced: bool = False) -> list[Part]:
        """The answer has ended: what was held is text, and a call that is cut off keeps what came.

        `is_cut`: it was not the model that ended it; the beginning of a call that has not named its tool is
        then nothing. `is_forced`: it could be nothing but calls.
        """
        if self._state == self._in_rest:
            self._parts += [CallArguments(self._held), CallEnd()]
        elif self._state == self._in_call and self._reader is not None and self._reader.has_begun:
            self._parts.append(CallEnd())
        elif not (is_cut and (is_forced or self._is_in_markup())):
            self._parts.append(Text("".join(self._space) + self._held))
        self._forget()
        self._state = self._in_text
        return self._taken()

    def _is_in_markup(self) -> bool:
        """Whether what is held is a trigger, or so much of one that it is hardly anything else; or, after a
        call, the beginning of what closes it.
        """
        begin, end, held = self._format.begin, self._format.end, self._held
        if self._after_call and held and end.startswith(held):
            return True
        return held.startswith(begin) or (len(held) > 1 and begin.startswith(held))

    def _taken(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return merged(parts)

    def _in_text(self, character: str) -> None:
        format = self._format
        if not self._held and self._goes_on_after_call(character):
            return
        if not self._held and character in WHITESPACE:
            self._space.append(character)
            return
        held = self._held + character
        if held == format.begin:
            self._held, self._state, self._is_open = held, self._in_opening, False
        elif self._after_call and format.end and held == format.end:
            self._held, self._is_open = "", False
        elif format.is_bare and held == "{" and (self._at_start or self._space):
            self._begin_call(character, CallReader(self._names, bare=True))
        else:
            self._say(held)

    def _goes_on_after_call(self, character: str) -> bool:
        """Takes white space, what closes a list of calls, and what separates one call from the next."""
        if not self._after_call:
            return False
        if character in WHITESPACE:
            return True
        if not self._is_open or character not in "{,;]":
            return False
        if character == "]" and self._format.closing != "]":
            return False
        if character == "{":
            self._begin_call(character, CallReader(self._names))
        elif character == "]":
            self._is_open = False
        else:
            self._held, self._state = character, self._in_separator
        return True

    def _say(self, held: str) -> None:
        """All that can be no beginning of a marker, nor the white space before one, is text."""
        markers = [self._format.begin]
        if self._after_call and self._format.end:
            markers.append(self._format.end)
        undecided = max(overlap(held, marker) for marker in markers)
        decided = held[: len(held) - undecided]
        self._held = held[len(decided) :]
        if decided:
            text = decided.rstrip(WHITESPACE)
            self._parts.append(Text("".join(self._space) + text))
            self._space = list(decided[len(text) :])
            self._at_start = self._after_call = False

    def _in_separator(self, character: str) -> None:
        if character == "{":
            self._begin_call(character, CallReader(self._names))
        elif character in WHITESPACE:
            self._held += character
        else:
            self._give_up(character)

    def _in_opening(self, character: str) -> None:
        """After the trigger: where the call begins, or its name when that stands alone."""
        if character in WHITESPACE:
            self._held += character
            return
        opened = self._held.rstrip(WHITESPACE)
        if character == "{":
            self._begin_call(character, CallReader(self._names))
        elif character == self._format.opening and opened.endswith(self._format.begin):
            self._held += character
        elif self._format.tag and opened.endswith(self._format.begin):
            self._state = self._in_name
            self._in_name(character)
        else:
            self._give_up(character)

    def _in_name(self, character: str) -> None:
        """A bare name, perhaps the call's id in brackets, then the tag."""
        begin, tag = self._format.begin, self._format.tag
        header = self._held[self._held.rindex(begin) + len(begin) :] + character
        name = header.partition("[")[0].strip(WHITESPACE)
        if not name or len(header) > _MAX_HEADER or not any(known.startswith(name) for known in self._names):
            self._give_up(character)
        elif not header.endswith(tag):
            self._held += character
        elif name in self._names:
            self._forget()
            self._reader, self._state = CallReader(self._names, name=name), self._in_call
            self._parts += self._reader.take()
        else:
            self._give_up(character)

    def _begin_call(self, character: str, reader: CallReader) -> None:
        self._reader, self._state = reader, self._in_call
        self._in_call(character)

    def _in_call(self, character: str) -> None:
        assert self._reader is not None
        try:
            is_complete = self._reader.push(character)
        except Broken:
            self._broken(self._reader, character)
            return
        self._held += character
        if self._reader.has_begun:
            self._forget()
        self._parts += self._reader.take()
        if is_complete:
            self._end_call()

    def _broken(self, reader: CallReader, character: str) -> None:
        self._parts += reader.take()
        if not reader.has_begun:
            self._give_up(character)
        elif reader.has_arguments:  # it only lacks its last brace
            self._parts.append(CallEnd())
            self._end_call()
            self._in_text(character)
        else:
            self._state = self._in_rest
            self._in_rest(character)

    def _in_rest(self, character: str) -> None:
        """Of a call that is no JSON: all up to its closing marker."""
        held, end = self._held + character, self._format.end
        if end and held.endswith(end):
            self._held = ""
            self._parts += [CallArguments(held[: -len(end)]), CallEnd()]
            self._end_call()
            self._is_open = False
        else:
            decided = len(held) - (overlap(held, end) if end else 0)
            self._parts.append(CallArguments(held[:decided]))
            self._held = held[decided:]

    def _forget(self) -> None:
        self._held = ""
        self._space.clear()

    def _end_call(self) -> None:
        self._state, self._after_call, self._is_open, self._at_start = self._in_text, True, True, False

    def _give_up(self, character: str) -> None:
        """It was no call. The character may begin one."""
        self._parts.append(Text("".join(self._space) + self._held))
        self._forget()
        self._state = self._in_text
        self._at_start = self._after_call = False
        self._in_text(character)
