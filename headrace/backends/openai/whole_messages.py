"""Finds what is new in whole messages inside a stream: some providers repeat what they have said before."""

from __future__ import annotations

from dataclasses import replace

from headrace.backends.openai.content import Content


class Message:
    """The whole messages of one choice. Each may contain all of the text so far, or only the text since the
    last one. `is_repeated`: the choice has had content in pieces, which its messages only repeat.
    """

    def __init__(self, *, is_repeated: bool) -> None:
        self._is_repeated = is_repeated
        self._text, self._reasoning = _Text(), _Text()

    def new_in(self, content: Content) -> Content:
        """Return what none of the earlier messages contained."""
        if self._is_repeated:
            return Content()
        text, reasoning = self._text.new_in(content.text), self._reasoning.new_in(content.reasoning)
        return replace(content, text=text, reasoning=reasoning)


class _Text:
    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0

    def new_in(self, text: str) -> str:
        if len(text) >= self._size:  # else it cannot contain all of them
            said = "".join(self._pieces)
            if text.startswith(said):
                self._pieces = [said]
                text = text[len(said) :]
        self._pieces.append(text)
        self._size += len(text)
        return text
