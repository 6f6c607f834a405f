"""How few tokens a text can possibly become, told from its length alone, so that a text which cannot fit is
refused before it is tokenized.

A token stands for at most so many bytes: the longest entry of the vocabulary. What a tokenizer does to a text
before it looks tokens up may shorten it, so the text's length is divided by the largest factor by which each
of those steps can do that. Bytes for which the vocabulary has no token are dropped by the library, and are
not counted. Of a step that may shorten a text without limit (one that drops white space, or accents) it is
assumed that it leaves at least one byte in UNKNOWN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from headrace.errors import TextTooLong
from headrace.text.alphabet import ALPHABET

UNKNOWN = 16
SLICE = 2**20  # characters that are counted in one call, which holds the interpreter lock
# By how much a step can shorten UTF-8 at most. Under NFC three characters of together 7 bytes become one of 2
# (U+0390), under NFKC one of 4 bytes (a mathematical letter) one of 1. The last ones only cut.
SHRINKS = {
    "NFC": 3.5, "NFD": 3.5, "NFKC": 4.0, "NFKD": 4.0, "Lowercase": 3.0, "Prepend": 1.0, "ByteLevel": 1.0,
    "Metaspace": 1.0, "Digits": 1.0, "Punctuation": 1.0, "UnicodeScripts": 1.0,
}  # fmt: skip


class Bound:
    """The bound of one tokenizer. `description` is its tokenizer.json, parsed; `tokens[id]` are the bytes
    that a token stands for, those of special tokens included.
    """

    def __init__(self, description: dict[str, Any], tokens: Sequence[bytes]) -> None:
        self.longest = max(1, *map(len, tokens))  # bytes
        single = {token[0] for token in tokens if len(token) == 1}
        self._dropped = bytes(byte for byte in range(256) if byte not in single)
        self.shrink = min(UNKNOWN, prod(_shrinks(description, self._dropped)))

    def tokens(self, text: str) -> int:
        """The fewest tokens that `text` can become. A thousand times faster than tokenizing it."""
        size = 0
        for start in range(0, len(text), SLICE):
            raw = text[start : start + SLICE].encode(errors="replace")
            size += len(raw.translate(None, self._dropped)) if self._dropped else len(raw)
        return int(size / (self.longest * self.shrink))

    def size(self, tokens: int) -> int:
        """The bytes, and so the characters, of the longest text that can become so few tokens, unless it has
        bytes that are dropped.
        """
        return int((tokens + 1) * self.longest * self.shrink)


def check_size(text: str, max_bytes: int, param: str) -> None:
    """Raises TextTooLong for a text that is longer in UTF-8."""
    if len(text) > max_bytes or len(text.encode(errors="replace")) > max_bytes:
        raise TextTooLong(f"{param} is longer than {max_bytes} bytes", param=param)


def _shrinks(description: dict[str, Any], dropped: bytes) -> Iterator[float]:
    if (description.get("model") or {}).get("type", "BPE") not in ("BPE", "Unigram"):
        yield UNKNOWN
    for token in description.get("added_tokens") or ():
        if not token.get("special") and (token.get("lstrip") or token.get("rstrip")):
            yield UNKNOWN  # it takes the white space beside it
    for step in (*_steps(description.get("normalizer")), *_steps(description.get("pre_tokenizer"))):
        yield _shrink_of(step, dropped)


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A step, or those of a sequence."""
    inner = (step or {}).get("normalizers") or (step or {}).get("pretokenizers")
    if inner is not None:
        for one in inner:
            yield from _steps(one)
    elif step is not None:
        yield step


def _shrink_of(step: dict[str, Any], dropped: bytes) -> float:
    kind, pattern = step.get("type", ""), step.get("pattern") or {}
    if kind == "Split":
        is_harmless = step.get("behavior") != "Removed" or _drops_only(pattern.get("Regex", ""), dropped)
        return 1.0 if is_harmless else UNKNOWN
    if kind == "Replace":
        is_harmless = len(step.get("content", "").encode()) >= len(pattern.get("String", " " * 99).encode())
        return 1.0 if is_harmless else UNKNOWN
    return SHRINKS.get(kind, UNKNOWN)


def _drops_only(expression: str, dropped: bytes) -> bool:
    """Whether it is a class of nothing but bytes that are not counted, in GPT-2's byte alphabet: what
    headrace.models.pretokenizers writes.
    """
    found = re.fullmatch(r"\[((?:\\?[^\\\[\]^-])+)\]", expression)
    return found is not None and all(
        ALPHABET[one] in dropped if one in ALPHABET else False for one in found[1].replace("\\", "")
    )
