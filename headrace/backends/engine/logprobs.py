"""Writes the log probabilities of tokens, and holds them back until the text of their tokens is shown."""

from __future__ import annotations

from collections import deque

from headrace.engine.sequence import Logprobs, Sequence
from headrace.text.tokenizer import Tokenizer
from headrace.types import TokenLogprob


def token_logprob(tokenizer: Tokenizer, token: int, logprobs: Logprobs) -> TokenLogprob:
    name, raw = tokenizer.token_text, tokenizer.token_raw
    top = tuple((name(other), raw(other), logprob) for other, logprob in logprobs.top)
    return TokenLogprob(name(token), raw(token), logprobs.logprob, top)


def prompt_logprobs(tokenizer: Tokenizer, sequence: Sequence) -> tuple[TokenLogprob, ...]:
    """The logprobs of a prompt that was scored; the first token has none."""
    if not sequence.params.prompt_logprobs:
        return ()
    first, *tokens = sequence.tokens[: sequence.num_prompt]
    pairs = zip(tokens, sequence.prompt_logprobs, strict=True)
    return (
        TokenLogprob(tokenizer.token_text(first), tokenizer.token_raw(first), None),
        *(token_logprob(tokenizer, token, logprobs) for token, logprobs in pairs),
    )


class PendingLogprobs:
    """Logprobs of tokens whose text is not shown yet: text that may begin a stop string is held back, and a
    stop string is cut off.
    """

    def __init__(self) -> None:
        self._waiting = deque[tuple[int, int, TokenLogprob]]()  # start and end of the token's text
        self._num_decoded = 0  # characters
        self.num_shown = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, logprob: TokenLogprob, length: int) -> None:
        """Add a token's. `length`: of its text."""
        start, self._num_decoded = self._num_decoded, self._num_decoded + length
        self._waiting.append((start, self._num_decoded, logprob))

    def take(self, *, is_cut: bool = False) -> tuple[TokenLogprob, ...]:
        """Remove and return those whose text is shown; with `is_cut`, also one that is shown in part."""
        taken = []
        while self._waiting and (self._waiting[0][0] if is_cut else self._waiting[0][1] - 1) < self.num_shown:
            taken.append(self._waiting.popleft()[2])
        return tuple(taken)
