"""Assembles one choice of a provider's answer from its pieces, in any dialect: reads texts in any shape,
joins halves of surrogate pairs and decides the finish reason.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from headrace.backends.body_decoding import Budget
from headrace.backends.calls import CallAssembler, CallPiece
from headrace.dialects.values import Halves, Object, dumped, word
from headrace.errors import ProviderError
from headrace.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Thought,
    TokenLogprob,
    Usage,
)

# what the finish reasons of an answer that was cut, or filtered, have in them, in lower case
CUT = re.compile(r"length|limit|max[\w-]*tokens|context_window")
FILTERED = re.compile(
    r"filter|refus|safety|recitation|blocked|blocklist|^block$|sensitive|spii|prohibited|guardrail|toxic"
    r"|moderat|\blanguage\b"
)
BROKEN = frozenset(
    ("error", "abort", "aborted", "cancelled", "canceled", "timeout", "network_error", "engine_error",
     "insufficient_system_resource", "malformed_function_call", "unexpected_tool_call")
)  # fmt: skip


log = logging.getLogger(__name__)

THOUGHTS = frozenset(("thinking", "reasoning", "reasoning.text", "reasoning.summary", "reasoning_text"))
WITHOUT_TEXT = frozenset(("reference", "reasoning.encrypted", "redacted_thinking"))  # types of parts
# members of a part with its text, and with its reasoning; the first that is not empty counts
OF_TEXT = ("text", "refusal", "content", "output_text", "value")
OF_THOUGHT = ("thinking", "text", "summary", "reasoning", "content")
MAX_DEPTH = 20  # of parts within parts


def is_broken(reason: str) -> bool:
    """Whether a provider's finish reason reports a failure."""
    return not _words(reason).isdisjoint(BROKEN)


def _words(reason: str) -> set[str]:
    """A finish reason in lower case. Some providers put a kind before it: "content_filter: SAFETY",
    "FinishReason.MAX_TOKENS".
    """
    return set(re.split(r"[\s:.]+", reason.lower()))


def finish_reason(reason: str, *, has_calls: bool) -> FinishReason:
    """The neutral finish reason for a provider's. Only "length" and "content_filter" are taken from the
    provider's word; otherwise the reason follows from whether the choice has tool calls.
    """
    if CUT.search(reason.lower()):
        return "length"
    if FILTERED.search(reason.lower()):
        return "content_filter"
    return "tool_calls" if has_calls else "stop"


class ChoiceAssembler:
    """Turns pieces of one choice into neutral events: call an `add` method for each piece, then `end` and
    `finished`. All raise ProviderError for a piece that belongs nowhere, and for an endless answer.
    """

    def __init__(self, provider: str, index: int, budget: Budget) -> None:
        self._provider, self._index, self._budget = provider, index, budget
        self._text, self._reasoning = Halves(), Halves()
        self._calls = CallAssembler(provider, index)
        self._annotations: dict[str, Object] = {}  # of the text, by their JSON
        self.has_content = False  # any text, reasoning or call has arrived
        self.reason: str | None = None  # why the choice ended, in the provider's words
        self.stop: str | None = None  # the stop string that ended it

    @property
    def has_calls(self) -> bool:
        return self._calls.num_named > 0

    def add_text(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Iterator[Event]:
        if text or logprobs:
            self._spend(len(text) + 16 * sum(1 + len(token.top) for token in logprobs))
        text = self._text.push(text)
        if text or logprobs:
            yield TextDelta(self._index, text, logprobs)

    def add_reasoning(self, text: str) -> Iterator[Event]:
        if text:
            self._spend(len(text))
        if text := self._reasoning.push(text):
            yield ReasoningDelta(self._index, text)

    def add_thought(self, thought: Thought) -> Iterator[Event]:
        """Add a complete thought with its signature."""
        self._spend(len(thought.text) + len(thought.signature or thought.redacted or ""))
        if rest := self._reasoning.end():
            yield ReasoningDelta(self._index, rest)
        yield ReasoningDelta(self._index, "", thought=thought)

    def add_call(self, piece: CallPiece) -> Iterator[Event]:
        self._budget.spend(len(piece.id) + len(piece.name) + len(piece.arguments))
        self.has_content = True
        yield from self._calls.add(piece)

    def add_annotations(self, annotations: Sequence[Object]) -> None:
        """Add annotations of the text, of which some providers send all again with each piece."""
        for annotation in annotations:
            text = dumped(annotation)
            if text not in self._annotations:
                self._budget.spend(2 * len(text))
                self._annotations[text] = annotation

    def end(self) -> Iterator[Event]:
        """Yield text that was held back."""
        if rest := self._reasoning.end():
            yield ReasoningDelta(self._index, rest)
        if rest := self._text.end():
            yield TextDelta(self._index, rest)
        is_cut = finish_reason(self.reason or "", has_calls=True) == "length"
        yield from self._calls.end("" if is_cut else "{}")

    def set_reason(self, reason: str) -> None:
        """Record why the choice ended. Raises ProviderError for a reason that reports a failure."""
        if is_broken(reason):
            raise ProviderError(f"{self._provider} failed in the middle of its answer")
        self.reason = self.reason or reason or None

    def finished(
        self, usage: Usage, decode_s: float = 0.0, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Finished:
        reason = finish_reason(self.reason or "", has_calls=self.has_calls)
        annotations = tuple(self._annotations.values())
        return Finished(self._index, reason, usage, decode_s, logprobs, self.stop, annotations=annotations)

    def _spend(self, size: int) -> None:
        """Count a piece of text or reasoning, of `size` characters."""
        self._budget.spend(size)
        self._calls.interrupt()
        self.has_content = True


def texts(provider: str, value: object, depth: int = MAX_DEPTH) -> tuple[str, str]:
    """Return the text and the reasoning in a value. Both may end with half of a surrogate pair."""
    if value is None or isinstance(value, str):
        return value or "", ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return dumped(value), ""
    if isinstance(value, dict) and depth:
        return _part(provider, value, depth - 1)
    if isinstance(value, list) and depth:
        pairs = [texts(provider, part, depth - 1) for part in value]
        return "".join(text for text, _ in pairs), "".join(thought for _, thought in pairs)
    if value is not False:
        log_left_out(provider, f"a text of type {type(value).__name__}")
    return "", ""


def all_text(provider: str, value: object) -> str:
    """As `texts`, where both kinds are the same."""
    return "".join(texts(provider, value))


def _part(provider: str, part: Object, depth: int) -> tuple[str, str]:
    kind = word(part.get("type"))
    if kind in THOUGHTS:
        return "", "".join(texts(provider, _first(part, OF_THOUGHT), depth))
    if any(name in part for name in OF_TEXT):
        return texts(provider, _first(part, OF_TEXT), depth)
    if kind not in WITHOUT_TEXT:
        log_left_out(provider, f"a part of type {kind[:50]!r}")
    return "", ""


def _first(part: Object, names: tuple[str, ...]) -> object:
    return next((part[name] for name in names if part.get(name)), None)


@lru_cache(maxsize=64)
def log_left_out(provider: str, what: str) -> None:
    """Log a warning, once for each kind: a provider may send it with every chunk."""
    log.warning("%s: %s is left out of its answers", provider, what)
