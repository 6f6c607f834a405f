"""Logprobs of tokens. Chat, and Ollama's dialect, have an object for each token; /v1/completions has four
parallel lists with an entry for each.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from headrace.types import TokenLogprob

LEAST_LOGPROB = -9999.0  # OpenAI's value for an impossible token; JSON has no infinity


class AlternativeLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


def alternative_logprob(token: str, raw: bytes, logprob: float | None) -> AlternativeLogprob:
    # JSON has no infinity, and some providers send no logprob
    least = LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)
    return {"token": token, "logprob": least, "bytes": list(raw)}


class CompletionLogprobs(TypedDict):
    """The JSON of logprobs. The first token of an echoed prompt has null, because nothing predicts it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: Annotated[
        list[dict[str, float] | None], Field(description="The most probable tokens, and the token.")
    ]
    text_offset: Annotated[
        list[int], Field(description="Where each token begins in the choice's text, in characters.")
    ]


class LogprobsWriter:
    """Writes the logprobs of one choice, delta by delta."""

    def __init__(self) -> None:
        self._text = ""  # the text for which no token has been found yet
        self._later: list[str] = []  # the deltas after it that had no tokens
        self._at = 0  # the offset of `_text` in the choice's text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, text: str, tokens: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """The logprobs of a delta. `text`: the next piece of the choice; `tokens`: those that are complete
        with it.
        """
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [_least(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": self._offsets(text, tokens),
        }

    def _offsets(self, text: str, tokens: Sequence[TokenLogprob]) -> list[int]:
        self._later.append(text)
        if not tokens:
            return []
        self._text, self._later = "".join([self._text, *self._later]), []
        length, offsets = 0, list[int]()
        for token in tokens:
            offsets.append(self._at + length)
            length += self._length(self._decoder.decode(token.raw), length)
        self._text, self._at = self._text[length:], self._at + length
        return offsets

    def _length(self, piece: str, start: int) -> int:
        """The number of the text's characters that a token covers. A special token may cover none, and the
        first token's leading space may be missing.
        """
        fits = (form for form in (piece, piece.lstrip(" ")) if self._text.startswith(form, start))
        return len(next(fits, ""))


def _top(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    top: dict[str, float] = {}
    for text, _, logprob in (*token.top, (token.token, token.raw, token.logprob)):
        # of two tokens with the same text, the more probable one comes first
        top.setdefault(text, max(logprob, LEAST_LOGPROB))
    return top


def _least(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
