"""The pre-tokenizers that GGUF files name (`tokenizer.ggml.pre`): they cut a text into words before byte
pairs are merged.

The cuts equal those of llama.cpp, including its version of Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Container

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from headrace.errors import UnsupportedModel

# Letters, digits and punctuation that Unicode 16 added: the `tokenizers` package knows them, llama.cpp's
# tables (Unicode 15) do not.
_NEW = (
    r"\x{1C89}\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D40}-\x{10D65}\x{10D6F}-\x{10D85}"
    r"\x{10EC2}-\x{10EC4}\x{11380}-\x{113B7}\x{113D1}\x{113D3}\x{116D0}-\x{116E3}\x{11BC0}-\x{11BE0}\x{11BF0}-\x{11BF9}"
    r"\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16130}-\x{16139}\x{16D40}-\x{16D6C}\x{16D70}-\x{16D79}\x{18CFF}"
    r"\x{1CCF0}-\x{1CCF9}\x{1E5D0}-\x{1E5ED}\x{1E5F0}-\x{1E5FA}"
)
_NEW_MARKS = (
    r"\x{1B4E}\x{1B4F}\x{1B7F}\x{10D6E}\x{113D4}\x{113D5}\x{113D7}\x{113D8}\x{11BE1}\x{16D6D}-\x{16D6F}"
    r"\x{1E5FF}"
)
_LETTER, _NUMBER = rf"[\p{{L}}&&[^{_NEW}]]", rf"[\p{{N}}&&[^{_NEW}]]"
_SIGN = rf"[[^\s\p{{L}}\p{{N}}]{_NEW}]"  # neither letter, number nor space
_LEAD = rf"[[^\r\n\p{{L}}\p{{N}}]{_NEW}]"  # may precede a word

_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?{_LETTER}+| ?{_NUMBER}+| ?{_SIGN}+|\s+(?!\S)|\s+"
_WORDS = rf"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|{_LEAD}?{_LETTER}+"
_REST = rf" ?{_SIGN}+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Each pattern is applied to the pieces that the one before it left.
PATTERNS: dict[str, tuple[str, ...]] = {
    "smollm": (_NUMBER, _GPT2),
    "gpt-2": (_GPT2,),
    "default": (rf"[[\p{{P}}&&[^{_NEW_MARKS}]]$+<=>^~|]+", _GPT2, rf"{_NUMBER}+", "[0-9][0-9][0-9]"),
    "llama-bpe": (rf"{_WORDS}|{_NUMBER}{{1,3}}|{_REST}",),
    "qwen2": (rf"{_WORDS}|{_NUMBER}|{_REST}",),
}
SAME_AS = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
# With these, a word that is in the vocabulary becomes one token without merging.
IGNORE_MERGES = frozenset({"llama-bpe"})


def canonical(name: str) -> str:
    """The name in PATTERNS for a pre-tokenizer. Raises UnsupportedModel if it is unknown."""
    found = SAME_AS.get(name, name)
    if found not in PATTERNS:
        raise UnsupportedModel(
            f"the pre-tokenizer {name!r} is not known here; known are {', '.join(sorted(PATTERNS))}"
        )
    return found


def build(name: str, alphabet: Container[str]) -> PreTokenizer:
    """A pre-tokenizer that cuts by each pattern in turn, writes bytes in GPT-2's alphabet, and drops bytes
    without a token.
    """
    steps: list[PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[canonical(name)]
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    missing = "".join(byte for byte in sorted(pre_tokenizers.ByteLevel.alphabet()) if byte not in alphabet)
    if missing:
        # Dropped here and not by the merging model, which would merge the bytes on both sides.
        steps.append(pre_tokenizers.Split(Regex(f"[{re.escape(missing)}]"), "removed"))
    return pre_tokenizers.Sequence(steps)
