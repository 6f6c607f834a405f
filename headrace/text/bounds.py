"""A lower bound of a text's number of tokens, computed from its length, so that a text that cannot fit is
refused before it is tokenized.

A token stands for at most as many bytes as the longest entry of the vocabulary. The steps of a tokenizer
before the lookup may shorten the text, so its length is divided by the largest factor by which each step can
do so. Bytes without a token in the vocabulary are dropped by the library, so they are not counted. A step
that may shorten a text without limit (it drops white space, or accents) is assumed to leave at least one byte
in UNKNOWN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from headrace.errors import TextTooLong

UNKNOWN = 16
SLICE = 2**20  # characters counted per call: each holds the interpreter lock
# The largest factor by which each step can shorten UTF-8. NFC makes 2 bytes of three characters with 7
# (U+0390), NFKC makes 1 byte of a mathematical letter with 4. Steps with 1.0 only cut.
SHRINKS = {
    "NFC": 3.5, "NFD": 3.5, "NFKC": 4.0, "NFKD": 4.0, "Lowercase": 3.0, "Prepend": 1.0, "ByteLevel": 1.0,
    "Metaspace": 1.0, "Digits": 1.0, "Punctuation": 1.0, "UnicodeScripts": 1.0,
}  # fmt: skip


class Bound:
    """The bound of one tokenizer. `description`: its tokenizer.json, parsed; `tokens[id]`: the bytes of each
    token, including special ones.
    """

    def __init__(self, description: dict[str, Any], tokens: Sequence[bytes]) -> None:
        self.longest = max(1, *map(len, tokens))  # bytes
        single = {token[0] for token in tokens if len(token) == 1}
        self._dropped = bytes(byte for byte in range(256) if byte not in single)
        self.shrink = min(UNKNOWN, prod(_shrinks(description, self._dropped)))

    def tokens(self, text: str) -> int:
        """A lower bound of the text's number of tokens. A thousand times faster than tokenizing it."""
        size = 0
        for start in range(0, len(text), SLICE):
            raw = text[start : start + SLICE].encode(errors="replace")
            size += len(raw.translate(None, self._dropped)) if self._dropped else len(raw)
        return int(size / (self.longest * self.shrink))

    def size(self, tokens: int) -> int:
        """An upper bound, in bytes, of the texts that become at most this many tokens and have no byte that
        is dropped.
        """
        return int((tokens + 1) * self.longest * self.shrink)


def check_size(text: str, max_bytes: int, param: str) -> None:
    """Raise TextTooLong if the text is longer than `max_bytes` in UTF-8."""
    if len(text) > max_bytes or len(text.encode(errors="replace")) > max_bytes:
        raise TextTooLong(f"{param} is longer than {max_bytes} bytes", param=param)


def _shrinks(description: dict[str, Any], dropped: bytes) -> Iterator[float]:
    if (description.get("model") or {}).get("type", "BPE") not in ("BPE", "Unigram"):
        yield UNKNOWN
    for token in description.get("added_tokens") or ():
        if not token.get("special") and (token.get("lstrip") or token.get("rstrip")):
            yield UNKNOWN  # it absorbs the white space beside it
    for step in (*_steps(description.get("normalizer")), *_steps(description.get("pre_tokenizer"))):
        yield _shrink_of(step, dropped)


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The step itself, or the steps of a sequence."""
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
    """Whether the expression is a class of uncounted bytes in GPT-2's alphabet, as
    headrace.models.tokenizer writes it.
    """
    match = re.fullmatch(r"\[((?:\\?[^\\\[\]^-])+)\]", expression)
    return match is not None and all(
        ALPHABET[one] in dropped if one in ALPHABET else False for one in match[1].replace("\\", "")
    )


def _byte_alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


ALPHABET = _byte_alphabet()  # character → byte
