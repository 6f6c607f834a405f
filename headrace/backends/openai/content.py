"""Reads text, reasoning, calls and log probabilities from one choice of a chunk or of a whole answer. Where
providers send the same content under two names, one of them counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.backends.calls import CallPiece, call_piece
from headrace.backends.choice import all_text, log_left_out, texts
from headrace.dialects.values import Object, an_object, count, number, objects, valid, valid_value, word
from headrace.types import TokenLogprob

# the first with content counts
REASONINGS = (
    "reasoning_content", "reasoning", "reasoning_details", "reasoning_text", "thinking", "thinking_blocks",
    "thinking_content",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """The content of one choice in one chunk. Texts may end with half of a surrogate pair. `is_message`: it
    is a whole message, and not a piece of one.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    is_message: bool = False
    annotations: tuple[Object, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)


def choices_in(chunk: Object) -> list[Object]:
    """The choices of a chunk or of an answer: a list, one choice, or a mapping from indexes to choices."""
    choices = chunk.get("choices")
    if isinstance(choices, dict):
        by_index = all(count(name) is not None for name in choices)
        pairs = choices.items()
        choices = [{"index": name, **an_object(body)} for name, body in pairs] if by_index else [choices]
    return [body for body in choices if isinstance(body, dict)] if isinstance(choices, list) else []


def reason_in(body: Object) -> str:
    """The finish reason of a choice; "" if it goes on."""
    reason = word(body.get("finish_reason")) or word(an_object(body.get("delta")).get("finish_reason"))
    return "" if reason == "null" else reason


def content_of(provider: str, body: Object) -> Content:
    """Read one choice."""
    delta = body.get("delta")
    if isinstance(delta, str | list):  # a text, or parts of one
        return Content(*texts(provider, delta))
    if isinstance(delta, dict):
        content = _content(provider, delta, is_message=False)
        if content or content.annotations:
            return content
    message = body.get("message")
    if isinstance(message, dict):
        return _content(provider, message, is_message=True)
    if message:
        return Content(*texts(provider, message), is_message=True)
    if isinstance(delta, dict) and delta.get("content") is not None:
        return Content()  # an empty piece: `text` repeats what was said
    return Content(all_text(provider, body.get("text")))


def _content(provider: str, delta: Object, *, is_message: bool) -> Content:
    text, thought = texts(provider, delta.get("content", delta.get("text")))
    refusal = all_text(provider, delta.get("refusal"))
    if refusal != text:
        text += refusal  # a refusal is text that the model writes instead of an answer
    reasoning = next(filter(None, (all_text(provider, delta.get(name)) for name in REASONINGS)), "")
    calls = tuple(_calls(provider, delta, is_message=is_message))
    annotations = tuple(map(valid_value, objects(delta.get("annotations"))))
    return Content(text, reasoning or thought, calls, is_message, annotations)


def _calls(provider: str, delta: Object, *, is_message: bool) -> Iterator[CallPiece]:
    """Read calls. `is_message`: `delta` is a whole message, where a call's place in the list is its index."""
    calls = delta.get("tool_calls")
    pieces = _in_order(calls) if isinstance(calls, dict) else calls
    if pieces and not isinstance(pieces, list):
        log_left_out(provider, f"a call of type {type(pieces).__name__}")
        return
    for place, piece in enumerate(pieces or ()):
        if isinstance(piece, dict):
            yield call_piece(piece, place if is_message else count(piece.get("index")), is_whole=is_message)
        elif piece is not None:
            log_left_out(provider, f"a call of type {type(piece).__name__}")
    older = delta.get("function_call")
    if not pieces and isinstance(older, dict):
        yield call_piece(older, None, is_whole=is_message)


def _in_order(calls: Object) -> list[object]:
    """One call, or the calls of a mapping from their indexes."""
    if not calls or any(count(name) is None for name in calls):
        return [calls]
    return [{"index": name, **an_object(call)} for name, call in calls.items()]


def logprobs_of(logprobs: object) -> tuple[TokenLogprob, ...]:
    """Read the form of chat completions, or that of text completions (parallel lists). If one entry cannot be
    read, the result is empty.
    """
    body = an_object(logprobs)
    tokens = (
        _listed(body) if "tokens" in body else [_of_chat(entry) for entry in objects(body.get("content"))]
    )
    known = tuple(token for token in tokens if token is not None)
    return known if len(known) == len(tokens) else ()


def _of_chat(body: Object) -> TokenLogprob | None:
    token, top = _token(body), [_token(other) for other in objects(body.get("top_logprobs"))]
    return None if token is None else TokenLogprob(*token, tuple(other for other in top if other is not None))


def _token(body: Object) -> tuple[str, bytes, float] | None:
    token, logprob, raw = body.get("token"), number(body.get("logprob")), body.get("bytes")
    if not isinstance(token, str) or logprob is None:
        return None
    return valid(token), _bytes(raw) or valid(token).encode(), float(logprob)


def _bytes(value: object) -> bytes | None:
    if not isinstance(value, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in value):
        return None
    return bytes(value)


def _listed(body: Object) -> list[TokenLogprob | None]:
    tokens, values, tops = body.get("tokens"), body.get("token_logprobs"), body.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        return []
    if not isinstance(tops, list) or len(tops) != len(tokens):
        tops = [None] * len(tokens)
    return [_of_list(*entry) for entry in zip(tokens, values, tops, strict=True)]


def _of_list(token: object, value: object, top: object) -> TokenLogprob | None:
    logprob = number(value)
    if not isinstance(token, str) or (value is not None and logprob is None):
        return None
    others = tuple(
        (valid(text), valid(text).encode(), float(its_logprob))
        for text, other in an_object(top).items()
        if (its_logprob := number(other)) is not None
    )
    return TokenLogprob(valid(token), valid(token).encode(), logprob, others)
