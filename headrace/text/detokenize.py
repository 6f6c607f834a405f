"""Token bytes to text, one token at a time: a character that is spread over several tokens is shown when it
is whole.
"""

from __future__ import annotations

import codecs

from headrace.text.tokenizer import Tokenizer


class Detokenizer:
    """The pieces joined equal the bytes joined and decoded at once, invalid bytes replaced by U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """The stream has ended: an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)
