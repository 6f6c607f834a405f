"""Builds a Hugging Face tokenizer (`tokenizer.json`) from a GGUF file's metadata.

It yields the same ids as llama.cpp; tests/models/test_tokenizer.py compares them.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models

from headrace.errors import UnsupportedModel
from headrace.models import pretokenizers, sentencepiece
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
        tokenizer = sentencepiece.build(metadata, tokens, is_word=is_word)
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
    pre = pretokenizers.canonical(metadata.text("tokenizer.ggml.pre", "default"))
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
    pre = pretokenizers.canonical(metadata.text("tokenizer.ggml.pre", "default"))
    merges = [_pair(line) for line in metadata.texts("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise metadata.unsupported("has two tokens of one text")
    if len(set(merges)) != len(merges):
        raise metadata.unsupported("has a merge twice")
    ignore_merges = pre in pretokenizers.IGNORE_MERGES
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    except Exception as exc:  # the package raises nothing narrower
        raise metadata.unsupported(f"has merges that do not fit its vocabulary ({str(exc)[:200]})") from exc
    tokenizer.pre_tokenizer = pretokenizers.build(pre, vocabulary)
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
