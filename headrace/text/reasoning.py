"""The reasoning that precedes an answer: its marks in chat templates, and splitting it off a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace.text.stops import overlap
from headrace.text.toolcalls.call_reader import WHITESPACE, Text


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around the reasoning. Where they are special tokens, the splitter needs their text."""

    begin: str
    end: str

    @property
    def markers(self) -> tuple[str, ...]:
        return self.begin, self.end

    def starts_open(self, rendered_prompt: str) -> bool:
        """Whether the prompt ends with the opening mark, so that the answer starts inside the reasoning."""
        return rendered_prompt.rstrip(WHITESPACE).endswith(self.begin)


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A piece of the reasoning."""

    text: str


_KNOWN = (
    Thinking("<think>", "</think>"),
    Thinking("<reasoning>", "</reasoning>"),
    Thinking("<thought>", "</thought>"),
    Thinking("[THINK]", "[/THINK]"),
)


def detect(template_source: str | None) -> Thinking | None:
    """The marks in a template's source. One of a pair is enough: some templates only mention the end."""
    source = template_source or ""
    return next((known for known in _KNOWN if known.begin in source or known.end in source), None)


def template_variables(supports: Callable[[str], bool], effort: str | None) -> Mapping[str, object] | None:
    """The template variables that set the reasoning effort; None if the template has none. `supports`:
    whether the template reads a variable (ChatTemplate.supports).
    """
    if effort is None:
        return {}
    if supports("reasoning_effort"):
        return {"reasoning_effort": effort}
    for switch in ("enable_thinking", "thinking"):
        if supports(switch):
            return {switch: effort != "none"}
    return None


class Splitter:
    """Splits one answer into reasoning, which comes first if at all, and text. White space next to the marks
    is dropped. `is_open`: the prompt ends with the opening mark.
    """

    def __init__(self, thinking: Thinking | None, *, is_open: bool = False) -> None:
        self._thinking = thinking
        self._pending = ""
        self._is_undecided = thinking is not None and not is_open
        self.is_thinking = thinking is not None and is_open
        self._drops_space = is_open

    def push(self, text: str) -> list[Reasoned | Text]:
        """Add text. Returns the pieces that are certain now, at most one of each kind."""
        self._pending += text
        parts: list[Reasoned | Text] = []
        if self._is_undecided:
            self._decide()
        if self.is_thinking:
            parts += self._think()
        if not self._is_undecided and not self.is_thinking:
            parts += self._answer()
        return parts

    def flush(self) -> list[Reasoned | Text]:
        """End the answer. Text that was held back belongs to the reasoning if that is still open."""
        pending, self._pending = self._pending, ""
        if self.is_thinking:
            return [Reasoned(pending)] if pending and not self._drops_space else []
        return [Text(pending)] if pending and not self._drops_space else []

    def _decide(self) -> None:
        assert self._thinking is not None
        begin, seen = self._thinking.begin, self._pending.lstrip(WHITESPACE)
        if seen.startswith(begin):
            self._is_undecided, self.is_thinking, self._drops_space = False, True, True
            self._pending = seen[len(begin) :]
        else:
            self._is_undecided = begin.startswith(seen)

    def _think(self) -> list[Reasoned | Text]:
        assert self._thinking is not None
        end = self._thinking.end
        self._drop_space()
        at = self._pending.find(end)
        if at >= 0:
            thought = self._pending[:at].rstrip(WHITESPACE)
            self._pending = self._pending[at + len(end) :]
            self.is_thinking, self._drops_space = False, True
        else:
            size = len(self._pending) - overlap(self._pending, end)
            thought = self._pending[:size].rstrip(WHITESPACE)
            self._pending = self._pending[len(thought) :]
        return [Reasoned(thought)] if thought else []

    def _answer(self) -> list[Reasoned | Text]:
        self._drop_space()
        text, self._pending = self._pending, ""
        return [Text(text)] if text else []

    def _drop_space(self) -> None:
        """Drop white space after a mark, up to the first other character."""
        if self._drops_space:
            self._pending = self._pending.lstrip(WHITESPACE)
            self._drops_space = not self._pending
