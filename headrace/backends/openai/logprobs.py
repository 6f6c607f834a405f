"""Reads log probabilities of tokens in OpenAI's dialect. An odd shape counts as missing; it is no error."""

from __future__ import annotations

from headrace.dialects.values import Object, an_object, number, objects, valid
from headrace.types import TokenLogprob


def logprobs_of(logprobs: object) -> tuple[TokenLogprob, ...]:
    """Read the form of chat completions, or that of text completions (parallel lists). If one entry cannot be
    read, the result is empty.
    """
    body = an_object(logprobs)
    found = _listed(body) if "tokens" in body else [_of_chat(entry) for entry in objects(body.get("content"))]
    known = tuple(token for token in found if token is not None)
    return known if len(known) == len(found) else ()


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
        (valid(text), valid(text).encode(), float(found))
        for text, other in an_object(top).items()
        if (found := number(other)) is not None
    )
    return TokenLogprob(valid(token), valid(token).encode(), logprob, others)
