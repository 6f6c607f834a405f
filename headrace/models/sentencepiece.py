"""Builds a Hugging Face tokenizer from a GGUF file with SentencePiece's byte pairs (Llama 2, Mistral, Phi-3).

Its file has a score for each token instead of a list of merges: of two neighbours that make a token together,
those are merged first whose token has the highest score.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers

from headrace.models.metadata import Metadata

SPACE = "\u2581"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def build(metadata: Metadata, tokens: list[str], *, is_word: list[bool]) -> Tokenizer:
    """`is_word`: of each token, whether it is none of the control, byte and user-defined ones. Raises
    UnsupportedModel where llama.cpp would find tokens that the merges do not lead to.
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
    found = metadata.value("tokenizer.ggml.scores")
    if not isinstance(found, list) or len(found) != len(vocabulary):
        raise metadata.unsupported("has no score for each token")
    scores = {word: float(found[vocabulary[word]]) for word in words}
    merged = [score for word, score in scores.items() if len(word) > 1]
    if len(set(merged)) != len(merged):
        raise metadata.unsupported("has two tokens of one score")
    return scores


def _merges(vocabulary: dict[str, int], words: list[str]) -> list[tuple[str, str]]:
    """The pairs of tokens that make one of the words, in the order of the words."""
    pairs = ((word[:at], word[at:]) for word in words for at in range(1, len(word)))
    return [(left, right) for left, right in pairs if left in vocabulary and right in vocabulary]
