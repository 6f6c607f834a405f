"""The bookkeeping beside an answer: tokens counted, and their logprobs. What has an odd shape is unknown; it
never costs an answer.
"""

from __future__ import annotations

from headrace.dialects.values import Object, an_object, count, number, objects, valid
from headrace.types import TokenLogprob, Usage

PROMPT, COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")


def usage_of(told: object) -> Usage | None:
    """None: it does not tell how long the prompt was."""
    body = an_object(told)
    prompt, completion = _first(body, PROMPT), _first(body, COMPLETION)
    if prompt is None or (completion is None and any(body.get(name) is not None for name in COMPLETION)):
        return None
    of_prompt = an_object(body.get("prompt_tokens_details")) or an_object(body.get("input_tokens_details"))
    of_completion = an_object(body.get("completion_tokens_details")) or an_object(
        body.get("output_tokens_details")
    )
    return Usage(
        prompt,
        completion or 0,
        count(of_prompt.get("cached_tokens")) or 0,
        count(of_completion.get("reasoning_tokens")) or 0,
        count(of_prompt.get("cache_write_tokens")) or 0,
    )


def logprobs_of(told: object) -> tuple[TokenLogprob, ...]:
    """In chat's form, or in that of text completions: lists beside each other. All of them, or none."""
    body = an_object(told)
    found = _listed(body) if "tokens" in body else [_of_chat(entry) for entry in objects(body.get("content"))]
    known = tuple(token for token in found if token is not None)
    return known if len(known) == len(found) else ()


def _first(body: Object, names: tuple[str, ...]) -> int | None:
    return next((found for name in names if (found := count(body.get(name))) is not None), None)


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
