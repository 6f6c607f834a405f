"""A streaming parser of answers: text, and calls in one of the formats.

It reads character by character, so its output does not depend on how the answer is divided into pieces. It
holds back only what is undecided: white space that may precede a call, the beginning of a marker, and a call
that has not named its tool yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.text.stops import overlap
from headrace.text.toolcalls.call_reader import (
    WHITESPACE,
    CallArguments,
    CallEnd,
    CallReader,
    MalformedCall,
    Part,
    Text,
    merged,
)
from headrace.text.toolcalls.formats import BEFORE, ToolFormat
from headrace.types import Tool

_MAX_HEADER = 200  # characters between the trigger and the tag


class Parser:
    """A state machine; `_state` is the method that reads the next character.

    What turns out not to be a call is emitted as text, unchanged. White space around calls is dropped. Once a
    call's name is emitted, it cannot become text any more: all that follows belongs to it, up to its end.
    """

    def __init__(self, format: ToolFormat, tools: Sequence[Tool]) -> None:
        self._format = format
        names = [tool.name for tool in tools]
        # some models name the namespace, too, as their templates do
        self._names = {**{f"functions.{name}": name for name in names}, **{name: name for name in names}}
        self._parts: list[Part] = []
        self._space: list[str] = []  # undecided white space
        self._pending = ""  # undecided text after it: the beginning of a marker or of a call
        self._state: Callable[[str], None] = self._in_text
        self._reader: CallReader | None = None
        self._at_start = True  # no text yet but white space
        self._last = ""  # the last character of the text so far
        self._is_list = False  # a list of calls was opened
        self._after_call = False  # nothing came since a call but white space and closing marks
        self._is_open = False  # within a group of calls: another may follow without a trigger

    def push(self, text: str) -> list[Part]:
        """Read a piece. Returns the parts that are decided now."""
        for character in text:
            self._state(character)
        return self._take()

    def flush(self, *, is_cut: bool = False, is_forced: bool = False) -> list[Part]:
        """Return the rest at the end of the answer: pending text, and the end of a call that was cut off.

        `is_cut`: the answer was cut off rather than ended by the model; then the beginning of a call without
        a name is dropped. `is_forced`: the grammar allowed nothing but calls.
        """
        if self._state == self._in_rest:
            self._parts += [CallArguments(self._pending), CallEnd()]
        elif self._state == self._in_call and self._reader is not None and self._reader.is_named:
            self._parts.append(CallEnd())
        elif not (is_cut and (is_forced or self._is_in_markup())):
            self._parts.append(Text("".join(self._space) + self._pending))
        self._clear_pending()
        self._state = self._in_text
        return self._take()

    def _is_in_markup(self) -> bool:
        """Whether the pending text is a trigger or two characters of one, or, after a call, the beginning of
        its closing marker.
        """
        begin, end, pending = self._format.begin, self._format.end, self._pending
        if self._after_call and pending and end.startswith(pending):
            return True
        return pending.startswith(begin) or (len(pending) > 1 and begin.startswith(pending))

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return merged(parts)

    def _in_text(self, character: str) -> None:
        format = self._format
        if not self._pending and self._continues_after_call(character):
            return
        if not self._pending and character in WHITESPACE:
            self._space.append(character)
            return
        pending = self._pending + character
        if pending == format.begin:
            self._pending, self._state, self._is_open = pending, self._in_opening, False
        elif self._after_call and format.end and pending == format.end:
            self._pending, self._is_open = "", False
        elif format.is_bare and pending == "{" and self._may_be_bare():
            self._begin_call(character, CallReader(self._names, bare=True))
        elif format.is_bare and pending == "[" and self._at_start:
            self._pending, self._state = pending, self._in_bare_list
        else:
            self._emit_text(pending)

    def _may_be_bare(self) -> bool:
        """Whether a brace may begin a call here, after the text so far."""
        return self._at_start or bool(self._space) or (bool(self._last) and self._last in BEFORE)

    def _in_bare_list(self, character: str) -> None:
        """After the bracket with which an answer begins."""
        if character in WHITESPACE:
            self._pending += character
        elif character == "{":
            self._is_list = True
            self._begin_call(character, CallReader(self._names, bare=True))
        else:
            self._emit_as_text(character)

    def _continues_after_call(self, character: str) -> bool:
        """Read white space, the end of a list of calls, or a separator between calls. False: it is none of
        these.
        """
        if not self._after_call:
            return False
        if character in WHITESPACE:
            return True
        if not self._is_open or character not in "{,;]":
            return False
        if character == "]" and not (self._is_list or self._format.closing == "]"):
            return False
        if character == "{":
            self._begin_call(character, CallReader(self._names))
        elif character == "]":
            self._is_open = self._is_list = False
        else:
            self._pending, self._state = character, self._in_separator
        return True

    def _emit_text(self, pending: str) -> None:
        """Emit text, except an end that may be the beginning of a marker, and the white space before it."""
        markers = [self._format.begin]
        if self._after_call and self._format.end:
            markers.append(self._format.end)
        undecided = max(overlap(pending, marker) for marker in markers)
        decided = pending[: len(pending) - undecided]
        self._pending = pending[len(decided) :]
        if decided:
            text = decided.rstrip(WHITESPACE)
            self._parts.append(Text("".join(self._space) + text))
            self._last = text[-1:]
            self._space = list(decided[len(text) :])
            self._at_start = self._after_call = False

    def _in_separator(self, character: str) -> None:
        if character == "{":
            self._begin_call(character, CallReader(self._names))
        elif character in WHITESPACE:
            self._pending += character
        else:
            self._emit_as_text(character)

    def _in_opening(self, character: str) -> None:
        """Between the trigger and the call's object or bare name."""
        if character in WHITESPACE:
            self._pending += character
            return
        opened = self._pending.rstrip(WHITESPACE)
        if character == "{":
            self._begin_call(character, CallReader(self._names))
        elif character == self._format.opening and opened.endswith(self._format.begin):
            self._pending += character
        elif self._format.tag and opened.endswith(self._format.begin):
            self._state = self._in_name
            self._in_name(character)
        else:
            self._emit_as_text(character)

    def _in_name(self, character: str) -> None:
        """Within a header: a bare name, perhaps the call's id in brackets, then the tag."""
        begin, tag = self._format.begin, self._format.tag
        header = self._pending[self._pending.rindex(begin) + len(begin) :] + character
        name = header.partition("[")[0].strip(WHITESPACE)
        if not name or len(header) > _MAX_HEADER or not any(known.startswith(name) for known in self._names):
            self._emit_as_text(character)
        elif not header.endswith(tag):
            self._pending += character
        elif name in self._names:
            self._clear_pending()
            self._reader, self._state = CallReader(self._names, name=name), self._in_call
            self._parts += self._reader.take()
        else:
            self._emit_as_text(character)

    def _begin_call(self, character: str, reader: CallReader) -> None:
        self._reader, self._state = reader, self._in_call
        self._in_call(character)

    def _in_call(self, character: str) -> None:
        assert self._reader is not None
        try:
            is_complete = self._reader.push(character)
        except MalformedCall:
            self._malformed(self._reader, character)
            return
        self._pending += character
        if self._reader.is_named:
            self._clear_pending()
        self._parts += self._reader.take()
        if is_complete:
            self._end_call()

    def _malformed(self, reader: CallReader, character: str) -> None:
        self._parts += reader.take()
        if not reader.is_named:
            self._emit_as_text(character)
        elif reader.has_arguments:  # only its last brace is missing
            self._parts.append(CallEnd())
            self._end_call()
            self._in_text(character)
        else:
            self._state = self._in_rest
            self._in_rest(character)

    def _in_rest(self, character: str) -> None:
        """Within a call that is not JSON: everything up to its closing marker is its arguments."""
        pending, end = self._pending + character, self._format.end
        if end and pending.endswith(end):
            self._pending = ""
            self._parts += [CallArguments(pending[: -len(end)]), CallEnd()]
            self._end_call()
            self._is_open = False
        else:
            decided = len(pending) - (overlap(pending, end) if end else 0)
            self._parts.append(CallArguments(pending[:decided]))
            self._pending = pending[decided:]

    def _clear_pending(self) -> None:
        self._pending = ""
        self._space.clear()

    def _end_call(self) -> None:
        self._state, self._after_call, self._is_open, self._at_start = self._in_text, True, True, False

    def _emit_as_text(self, character: str) -> None:
        """Emit the pending text, which is no call, and read the character again: it may begin one."""
        self._last, self._is_list = self._pending[-1:], False
        self._parts.append(Text("".join(self._space) + self._pending))
        self._clear_pending()
        self._state = self._in_text
        self._at_start = self._after_call = False
        self._in_text(character)
