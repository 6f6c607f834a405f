"""Token bytes to text, one token at a time: a character that is spread over several tokens is shown when it
is whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Container

from headrace.text.tokenizer import Tokenizer


class Detokenizer:
    """The pieces joined equal the bytes joined and decoded at once, invalid bytes replaced by U+FFFD."""

    def __init__(self, tokenizer: Tokenizer, shown: Container[int] = ()) -> None:
        """`shown`: the special tokens that are text here, by their names."""
        self._tokenizer, self._shown = tokenizer, shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        shown = token in self._shown
        raw = self._tokenizer.token_raw(token) if shown else self._tokenizer.token_bytes(token)
        return self._decoder.decode(raw)

    def flush(self) -> str:
        """The stream has ended: an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)
