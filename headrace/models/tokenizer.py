"""The tokenizer in a GGUF file's metadata as a Hugging Face tokenizer (`tokenizer.json`).

It yields the same ids as llama.cpp for the same file: tests/models/test_tokenizer.py compares them.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models

from headrace.errors import ModelError, UnsupportedModel
from headrace.models import pretokenizers
from headrace.models.gguf import GGUFFile

CONTROL, USER_DEFINED = 3, 4  # token types of the GGUF specification


def build(gguf: GGUFFile) -> Tokenizer:
    """Raises ModelError when the file's tokenizer is of a kind that is not read."""
    kind: str = gguf.field("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UnsupportedModel(
            f"{gguf.path} has a tokenizer of kind {kind!r}; only 'gpt2' (byte-level BPE) is read"
        )
    tokens: list[str] = gguf.field("tokenizer.ggml.tokens")
    tokenizer = _byte_level(gguf, tokens)
    _add_tokens(tokenizer, tokens, gguf.field("tokenizer.ggml.token_type", [1] * len(tokens)))
    return tokenizer


def _byte_level(gguf: GGUFFile, tokens: list[str]) -> Tokenizer:
    pre = pretokenizers.canonical(gguf.field("tokenizer.ggml.pre", "default"))
    lines: list[str] = gguf.field("tokenizer.ggml.merges")
    merges = [_pair(line) for line in lines]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    ignore_merges = pre in pretokenizers.IGNORE_MERGES
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    except Exception as exc:  # the package raises nothing narrower
        raise ModelError(f"{gguf.path} has an inconsistent vocabulary: {exc}") from exc
    tokenizer.pre_tokenizer = pretokenizers.build(pre, vocabulary)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    # The first character is no separator: a token is not empty, and may itself be a space.
    left, right = merge[:1], merge[1:]
    head, _, tail = right.partition(" ")
    return left + head, tail


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Control tokens are special: hidden in decoded text, not written by a user. User-defined are words."""
    chosen = zip(tokens, types, strict=True)
    added = [(text, kind == CONTROL) for text, kind in chosen if kind in (CONTROL, USER_DEFINED) and text]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text, special in added])
