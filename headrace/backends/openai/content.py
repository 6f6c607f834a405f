"""Reads text, reasoning and calls from one choice of a chunk or of a whole answer. Where providers send the
same content under two names, one of them counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from headrace.backends.calls import CallPiece
from headrace.dialects.values import Object, an_object, count, dumped, word
from headrace.errors import ProviderError

log = logging.getLogger(__name__)

REASONINGS = ("reasoning_content", "reasoning", "reasoning_details")  # the first with content counts
THOUGHTS = frozenset(("thinking", "reasoning", "reasoning.text", "reasoning.summary", "reasoning_text"))
WITHOUT_TEXT = frozenset(("reference", "reasoning.encrypted", "redacted_thinking"))  # types of parts


@dataclass(frozen=True, slots=True)
class Content:
    """The content of one choice in one chunk. Texts may end with half of a surrogate pair."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)


def content_of(provider: str, body: Object, *, may_repeat: bool = False) -> Content:
    """Read one choice. `may_repeat`: the choice has had content, so that a whole message only repeats it.
    Raises ProviderError for text or calls of an unknown shape.
    """
    delta = body.get("delta")
    if delta and not isinstance(delta, dict):  # a text, or parts of one
        text, thought = _texts(provider, delta)
        return Content(text, thought)
    if delta and (content := _content(provider, delta, is_message=False)):
        return content
    message = body.get("message")
    if isinstance(message, dict):
        return Content() if may_repeat else _content(provider, message, is_message=True)
    text, _ = _texts(provider, body.get("text"))
    return Content(text)


def _content(provider: str, delta: Object, *, is_message: bool) -> Content:
    text, thought = _texts(provider, delta.get("content", delta.get("text")))
    refusal, _ = _texts(provider, delta.get("refusal"))
    if refusal != text:
        text += refusal  # a refusal is text that the model writes instead of an answer
    reasoning = next(filter(None, (_reasoning(provider, delta.get(name)) for name in REASONINGS)), "")
    return Content(text, reasoning or thought, tuple(_calls(provider, delta, is_message=is_message)))


def _reasoning(provider: str, value: object) -> str:
    text, thought = _texts(provider, value)
    return text + thought


def _texts(provider: str, value: object) -> tuple[str, str]:
    """Read text and reasoning from a content: a string, a number, or parts of either kind."""
    if value is None or value is False or isinstance(value, str):
        return value or "", ""
    if isinstance(value, int | float) and value is not True:
        return dumped(value), ""
    parts = [value] if isinstance(value, dict) else value
    if not isinstance(parts, list):
        raise ProviderError(f"{provider} sent a text that is none")
    pairs = [_part(provider, part) for part in parts]
    return "".join(text for text, _ in pairs), "".join(thought for _, thought in pairs)


def _part(provider: str, part: object) -> tuple[str, str]:
    if isinstance(part, str):
        return part, ""
    if not isinstance(part, dict):
        raise ProviderError(f"{provider} sent a part of a text that is none")
    kind = word(part.get("type"))
    if kind in THOUGHTS:
        names = ("thinking", "text", "summary", "reasoning")
        return "", "".join(_texts(provider, next((part[name] for name in names if part.get(name)), "")))
    text = part.get("text", part.get("refusal"))
    if text is None:
        if kind not in WITHOUT_TEXT:
            _warn(provider, kind[:50])
        return "", ""
    return _texts(provider, text)


@lru_cache(maxsize=64)
def _warn(provider: str, kind: str) -> None:
    """Log a warning, once for each kind of part: a provider may send it with every chunk."""
    log.warning("%s: parts of type %r are left out of its answers", provider, kind)


def _calls(provider: str, delta: Object, *, is_message: bool) -> Iterator[CallPiece]:
    """Read calls. `is_message`: `delta` is a whole message, where a call's place in the list is its index."""
    found = delta.get("tool_calls")
    pieces = [found] if isinstance(found, dict) else found
    if pieces and not isinstance(pieces, list):
        raise ProviderError(f"{provider} sent calls that are none")
    for place, piece in enumerate(pieces or ()):
        if piece is None:
            continue
        if not isinstance(piece, dict):
            raise ProviderError(f"{provider} sent a call that is none")
        function = piece.get("function", piece)  # some leave out the object around name and arguments
        index = place if is_message else count(piece.get("index"))
        yield _piece(provider, index, word(piece.get("id")), an_object(function))
    older = delta.get("function_call")
    if not pieces and isinstance(older, dict):
        yield _piece(provider, None, "", older)


def _piece(provider: str, index: int | None, id: str, function: Object) -> CallPiece:
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        arguments = dumped(arguments)
    if arguments is not None and not isinstance(arguments, str):
        raise ProviderError(f"{provider} sent arguments of a call that are none")
    return CallPiece(index, id, word(function.get("name")), arguments or "")
