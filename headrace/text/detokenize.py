"""Turns tokens into text one by one. A character that is spread over several tokens appears with the last."""

from __future__ import annotations

import codecs
from collections.abc import Container

from headrace.text.tokenizer import Tokenizer


class Detokenizer:
    """Decodes the tokens of one answer. The pieces joined equal all bytes decoded at once, with invalid bytes
    replaced by U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Container[int] = ()) -> None:
        """`shown`: the special tokens whose names are part of the text; others are left out."""
        self._tokenizer, self._shown = tokenizer, shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        shown = token in self._shown
        raw = self._tokenizer.token_raw(token) if shown else self._tokenizer.token_bytes(token)
        return self._decoder.decode(raw)

    def flush(self) -> str:
        """End the stream. An incomplete character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)
