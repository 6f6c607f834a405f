"""Finds places where a long text can be cut such that the tokens of the pieces equal those of the whole.

A byte-level tokenizer first cuts a text into words by regular expressions, and merges bytes only within a
word. With the expressions below, no word contains a letter followed by one of STOPS, and none looks back: a
word always ends after such a letter, and the following words do not depend on the text before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

SIZE = 2**15  # characters per piece, approximately
_LETTER, STOPS = "A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3", " \n.,;:!?()\u3001\u3002\uff0c"
_CUT = re.compile(rf"(?<=[{_LETTER}])(?=[{STOPS}])")
_WORD, _REST = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SUFFIXES = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_LEAD, _UPPER, _LOWER = (
    r"[^\r\n\p{L}\p{N}]?",
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
)
# Expressions of published files that cut a whole text into words: those of GPT-2, Llama 3 and GPT-4, Qwen,
# GPT-4o.
_WHOLE = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    *(
        rf"{suffixes}|{_WORD}|{numbers}|{_REST}"
        for suffixes in (_SUFFIX, _SUFFIXES)
        for numbers in (r"\p{N}{1,3}", r"\p{N}")
    ),
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_SUFFIX}?|{_LEAD}{_UPPER}+{_LOWER}*{_SUFFIX}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
# Expressions that only cut further what another one has cut.
_PART = {r"\p{N}", r"\p{N}+", r"\p{N}{1,3}", "[0-9][0-9][0-9]", r"[\p{P}$+<=>^~|]+"}
# headrace.models.tokenizer subtracts newer characters from classes, or adds them: what to strip before
# comparing.
_WITHOUT = re.compile(r"\[(\\p\{[LNP]\})&&\[\^[^\]]*\]\]"), re.compile(r"\[(\[\^[^\]]*\])[^\[\]]*\]")


def is_cuttable(description: dict[str, Any]) -> bool:
    """Whether texts can be cut for the tokenizer with this tokenizer.json (parsed)."""
    normalizer = description.get("normalizer")
    if normalizer is not None and normalizer.get("type") not in ("NFC", "Lowercase"):
        return False
    for token in description.get("added_tokens") or ():
        if _CUT.search(token["content"]) or (not token.get("special") and _reaches_out(token)):
            return False
    pre = description.get("pre_tokenizer") or {}
    return _cuts(pre.get("pretokenizers") or [pre])


def pieces(text: str) -> Iterator[str]:
    """Cut the text into pieces of about SIZE characters. Pieces are longer where no cut is possible."""
    start = 0
    while len(text) - start > SIZE:
        end = next_cut(text, start + SIZE)
        yield text[start:end]
        start = end
    if start < len(text) or not text:
        yield text[start:]


def next_cut(text: str, position: int) -> int:
    """The first index at or after `position` where the text can be cut; its length if there is none."""
    for at in range(position, len(text), SIZE):  # in steps: each call holds the interpreter lock
        match = _CUT.search(text, at, at + SIZE + 1)
        if match is not None:
            return match.start()
    return len(text)


def _reaches_out(token: dict[str, Any]) -> bool:
    return bool(token.get("lstrip") or token.get("rstrip") or token.get("single_word"))


def _cuts(steps: list[dict[str, Any]]) -> bool:
    """Whether a pre-tokenizer with these steps cuts by a known expression, and no other step depends on the
    text across a cut.
    """
    is_known = False
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel" and not step.get("add_prefix_space"):
            is_known = is_known or bool(step.get("use_regex", True))
        elif kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            expression = _plain((step.get("pattern") or {}).get("Regex", ""))
            if expression not in _WHOLE | _PART:
                return False
            is_known = is_known or expression in _WHOLE
        elif kind != "Digits" and not (kind == "Split" and step.get("behavior") == "Removed" and is_known):
            return False
    return is_known


def _plain(expression: str) -> str:
    """The expression without the additions and subtractions of newer characters."""
    for without in _WITHOUT:
        expression = without.sub(r"\1", expression)
    return expression
