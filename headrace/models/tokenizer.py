"""Builds a Hugging Face tokenizer (`tokenizer.json`) from a GGUF file's metadata.

It yields the same ids as llama.cpp; tests/models/test_tokenizer.py compares them.
"""

from __future__ import annotations

import re
from collections.abc import Container

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from headrace.errors import UnsupportedModel
from headrace.models.gguf import GGUFFile
from headrace.models.metadata import Metadata

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types of the GGUF specification
KINDS = ("gpt2", SENTENCEPIECE := "llama")
KNOWN_TYPES = range(7)
# Tokens that end an answer in chat formats; like llama.cpp, whatever type the file gives them.
END_OF_TURN = frozenset(
    {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|return|>",
        "<|call|>", "<|calls|>", "<|flush|>", "<end_of_turn>", "<end_of_utterance>", "<EOT>", "_<EOT>",
        "[EOT]", "[EOS]", "<turn|>", "<|END_OF_TURN_TOKEN|>",
    }
)  # fmt: skip
ROLES = (
    "bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "cls", "fim_pre", "fim_suf",
    "fim_mid", "fim_pad", "fim_rep", "fim_sep", "prefix", "suffix", "middle",
)  # fmt: skip

SPACE = "\u2581"  # what SentencePiece writes for one
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

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

# The pre-tokenizers that GGUF files name (`tokenizer.ggml.pre`) cut a text into words before byte pairs are
# merged. The cuts equal those of llama.cpp, including its version of Unicode.
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


def build(gguf: GGUFFile) -> Tokenizer:
    """Build the tokenizer. Raises UnsupportedModel if its kind is unknown or its parts are inconsistent."""
    metadata = gguf.metadata
    kind = metadata.text("tokenizer.ggml.model")
    if kind not in KINDS:
        raise UnsupportedModel(
            f"{metadata.path} has a tokenizer of kind {kind[:100]!r}; 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece) are read"
        )
    tokens = metadata.texts("tokenizer.ggml.tokens")
    types = token_types(metadata, tokens)
    for role in ROLES:
        special_token(metadata, role, len(tokens))
    if kind == SENTENCEPIECE:
        is_word = [kind in (NORMAL, UNUSED) for kind in types]
        tokenizer = build_sentencepiece(metadata, tokens, is_word=is_word)
    else:
        tokenizer = _byte_level(metadata, tokens)
    _add_tokens(tokenizer, tokens, types)
    return tokenizer


def token_types(metadata: Metadata, tokens: list[str]) -> list[int]:
    """The type of each token. Raises UnsupportedModel if their number is wrong or one is unknown."""
    types = metadata.integers("tokenizer.ggml.token_type")
    types = [NORMAL] * len(tokens) if types is None else types
    if len(types) != len(tokens):
        raise metadata.unsupported(f"has {len(tokens)} tokens and {len(types)} token types")
    if not all(kind in KNOWN_TYPES for kind in types):
        raise metadata.unsupported("has a token of a type that is not known")
    pairs = zip(tokens, types, strict=True)
    return [CONTROL if text in END_OF_TURN else kind for text, kind in pairs]


def adds_bos(metadata: Metadata) -> bool:
    """Whether prompts begin with BOS: by the file, else by llama.cpp's default."""
    if metadata.text("tokenizer.ggml.model") == SENTENCEPIECE:
        return metadata.flag("tokenizer.ggml.add_bos_token", True)
    pre = canonical(metadata.text("tokenizer.ggml.pre", "default"))
    return metadata.flag("tokenizer.ggml.add_bos_token", pre == "llama-bpe")


def special_token(metadata: Metadata, role: str, size: int) -> int | None:
    """The id of the token with this role; None: there is none. Raises UnsupportedModel if it is not below
    `size`.
    """
    key = f"tokenizer.ggml.{role}_token_id"
    if metadata.value(key) is None:
        return None
    token = metadata.integer(key)
    # Some files write -1, signed or unsigned, for no token.
    if token in (-1, 2**32 - 1):
        return None
    if not 0 <= token < size:
        raise metadata.unsupported(f"has {token} as its {key}, of {size} tokens")
    return token


def _byte_level(metadata: Metadata, tokens: list[str]) -> Tokenizer:
    pre = canonical(metadata.text("tokenizer.ggml.pre", "default"))
    merges = [_pair(line) for line in metadata.texts("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise metadata.unsupported("has two tokens of one text")
    if len(set(merges)) != len(merges):
        raise metadata.unsupported("has a merge twice")
    ignore_merges = pre in IGNORE_MERGES
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    except Exception as exc:  # the package raises nothing narrower
        raise metadata.unsupported(f"has merges that do not fit its vocabulary ({str(exc)[:200]})") from exc
    tokenizer.pre_tokenizer = build_pretokenizer(pre, vocabulary)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    # The separator is a space after the first character: a token may itself be a space.
    left, right = merge[:1], merge[1:]
    head, _, tail = right.partition(" ")
    return left + head, tail


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Add control tokens as special ones (not part of decoded text), user-defined tokens as words."""
    chosen = zip(tokens, types, strict=True)
    added = [(text, kind == CONTROL) for text, kind in chosen if kind in (CONTROL, USER_DEFINED) and text]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text, special in added])


def build_sentencepiece(metadata: Metadata, tokens: list[str], *, is_word: list[bool]) -> Tokenizer:
    """A tokenizer of SentencePiece's byte pairs (Llama 2, Mistral, Phi-3). The file has a score for each
    token instead of a list of merges: of two neighbours that make a token together, those are merged first
    whose token has the highest score. `is_word`: of each token, whether it is none of the control, byte and
    user-defined ones. Raises UnsupportedModel where llama.cpp would find tokens that the merges do not lead
    to.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise metadata.unsupported("has two tokens of one text")
    if any(byte not in vocabulary for byte in BYTES):
        raise metadata.unsupported("has no tokens for single bytes")
    words = [token for token, word in zip(tokens, is_word, strict=True) if word]
    scores = _scores(metadata, vocabulary, words)
    if any(character not in vocabulary for word in words for character in word):
        raise metadata.unsupported("has a token with a character that is no token")
    merges = _merges(vocabulary, sorted(words, key=scores.__getitem__, reverse=True))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=False))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    if metadata.flag("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _scores(metadata: Metadata, vocabulary: dict[str, int], words: list[str]) -> dict[str, float]:
    """The score of each word. Raises UnsupportedModel if two that are merged have the same one: then the
    place in the text would decide.
    """
    numbers = metadata.value("tokenizer.ggml.scores")
    if not isinstance(numbers, list) or len(numbers) != len(vocabulary):
        raise metadata.unsupported("has no score for each token")
    scores = {word: float(numbers[vocabulary[word]]) for word in words}
    merged = [score for word, score in scores.items() if len(word) > 1]
    if len(set(merged)) != len(merged):
        raise metadata.unsupported("has two tokens of one score")
    return scores


def _merges(vocabulary: dict[str, int], words: list[str]) -> list[tuple[str, str]]:
    """The pairs of tokens that make one of the words, in the order of the words."""
    pairs = ((word[:at], word[at:]) for word in words for at in range(1, len(word)))
    return [(left, right) for left, right in pairs if left in vocabulary and right in vocabulary]


def canonical(name: str) -> str:
    """The name in PATTERNS for a pre-tokenizer. Raises UnsupportedModel if it is unknown."""
    pattern = SAME_AS.get(name, name)
    if pattern not in PATTERNS:
        raise UnsupportedModel(
            f"the pre-tokenizer {name!r} is not known here; known are {', '.join(sorted(PATTERNS))}"
        )
    return pattern


def build_pretokenizer(name: str, alphabet: Container[str]) -> PreTokenizer:
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
