"""Follows an answer's tokens for steering: is the next one part of a tool call, of a prescribed form, or of a
thought? For the exceptions `tool_calls` and `thinking` of scopes.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.steering.scope import IN_CALL, IN_THOUGHT
from headrace.text.reasoning import Thinking


class AnswerWatch:
    """`raw`: the bytes of a token. `is_formed`: a grammar prescribes all that is not a thought. `begin`: the
    mark with which a call begins, if the answer may have calls; what follows the first one is calls.
    """

    def __init__(
        self,
        raw: Callable[[int], bytes],
        *,
        is_formed: bool,
        begin: str | None,
        thinking: Thinking | None,
        is_open: bool,
    ) -> None:
        self._raw, self._is_formed, self._thinking = raw, is_formed, thinking
        self._begin = None if begin is None else begin.encode()
        self._is_thinking, self._is_in_call = is_open and thinking is not None, False
        self._text = b""
        marks = [begin or "", *(thinking.markers if thinking is not None else ())]
        self._longest = max(len(mark.encode()) for mark in marks)

    @property
    def state(self) -> int:
        """The flags of what comes next."""
        if self._is_thinking:
            return IN_THOUGHT
        return IN_CALL if self._is_formed or self._is_in_call else 0

    def flag(self, token: int) -> int:
        """See sequence.Watch."""
        self._text += self._raw(token)
        if self._thinking is not None:
            mark = self._thinking.end if self._is_thinking else self._thinking.begin
            if self._found(mark.encode()):
                self._is_thinking = not self._is_thinking
        if self._begin is not None and not self._is_thinking and self._found(self._begin):
            self._is_in_call = True
        self._text = self._text[-self._longest :] if self._longest else b""
        return self.state

    def _found(self, mark: bytes) -> bool:
        """Whether the text has the mark; if so, what is before its end is dropped."""
        place = self._text.find(mark)
        if place >= 0:
            self._text = self._text[place + len(mark) :]
        return place >= 0
