"""Our tokenizer.json yields llama.cpp's tokens, string by string, over all of Unicode."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from headrace.errors import ModelError
from headrace.models import tokenizer
from headrace.models.catalog import Model
from headrace.models.gguf import GGUFFile
from tests.models.llamacpp import LlamaCpp
from tests.models.strings import random_strings
from tests.models.tiny import TinyShape, TinyVocabulary, write_tiny

SURROGATES = range(0xD800, 0xE000)
SMALL = TinyShape(num_layers=1, hidden=32, feed_forward=32, num_heads=1, num_kv_heads=1)


@pytest.fixture(scope="module")
def oracle(default_model: Model) -> Iterator[LlamaCpp]:
    assert default_model.gguf is not None
    llama = LlamaCpp(default_model.gguf)
    yield llama
    llama.close()


@pytest.fixture(scope="module")
def ours(default_model: Model) -> Tokenizer:
    return as_text(Tokenizer.from_file(str(default_model.folder / "tokenizer.json")))


def as_text(found: Tokenizer) -> Tokenizer:
    """Literals of special tokens are text, as in everything a user writes."""
    found.encode_special_tokens = True
    return found


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def test_random_text_is_tokenized_as_by_llama_cpp(oracle: LlamaCpp, ours: Tokenizer) -> None:
    different = [
        text for text in random_strings(10_000, seed=0) if encode(ours, text) != oracle.tokenize(text)
    ]
    assert different == []


def test_real_text_is_tokenized_as_by_llama_cpp(oracle: LlamaCpp, ours: Tokenizer) -> None:
    text = inspect.getsource(inspect)
    assert encode(ours, text) == oracle.tokenize(text)


def test_every_assigned_code_point_is_tokenized_as_by_llama_cpp(oracle: LlamaCpp, ours: Tokenizer) -> None:
    points = [point for point in [*range(0x323B0), *range(0xE0000, 0xE01F0)] if point not in SURROGATES]
    for first in range(0, len(points), 1024):
        # Each between, before and after letters, digits, spaces and itself.
        text = "\n".join(f"a{c}a {c} {c}{c}.{c}1{c}  {c}" for c in map(chr, points[first : first + 1024]))
        assert encode(ours, text) == oracle.tokenize(text), hex(points[first])


def test_special_tokens_are_text_unless_they_are_asked_for(default_model: Model) -> None:
    found = Tokenizer.from_file(str(default_model.folder / "tokenizer.json"))
    assert encode(found, "<|im_start|>user") == [1, *encode(found, "user")]
    assert 1 not in encode(as_text(found), "<|im_start|>user")


def test_decoding_gives_the_text_back(ours: Tokenizer) -> None:
    for text in ["Hello, world!  \n\tx", "naïve 日本語 👩‍👩‍👧‍👦", "<|im_start|> is text"]:
        assert ours.decode(encode(ours, text), skip_special_tokens=False) == text


@pytest.fixture(params=tokenizer.PATTERNS)
def probe(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model that merges a quarter of all pairs of bytes: a cut elsewhere is another list of tokens."""
    alphabet = sorted(ByteLevel.alphabet())
    pairs = [(left, right) for left in alphabet for right in alphabet if (ord(left) + ord(right)) % 4 == 0]
    words = TinyVocabulary(merges=pairs, pre=request.param, user_defined=["<tool>", "\n\n\n"])
    return write_tiny(tmp_path / "probe.gguf", vocabulary=words, shape=SMALL)


def test_each_pre_tokenizer_cuts_as_llama_cpp_does(probe: Path) -> None:
    ours, oracle = as_text(tokenizer.build(GGUFFile(probe))), LlamaCpp(probe)
    texts = [*random_strings(2_000, seed=1), "a<tool>b <tool>", "x\n\n\n\ny"]
    different = [text for text in texts if encode(ours, text) != oracle.tokenize(text)]
    oracle.close()
    assert different == []


def test_words_of_the_vocabulary_need_no_merges_where_llama_cpp_says_so(tmp_path: Path) -> None:
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]  # by the merges alone, abc is a + bc
    for pre in ("llama-bpe", "gpt-2"):
        path = write_tiny(
            tmp_path / f"{pre}.gguf", vocabulary=TinyVocabulary(merges=merges, pre=pre), shape=SMALL
        )
        ours, oracle = as_text(tokenizer.build(GGUFFile(path))), LlamaCpp(path)
        assert encode(ours, "abc") == oracle.tokenize("abc")
        assert len(encode(ours, "abc")) == (1 if pre == "llama-bpe" else 2)
        oracle.close()


def test_an_unknown_pre_tokenizer_is_named(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "new.gguf", vocabulary=TinyVocabulary(pre="brand-new"))
    with pytest.raises(ModelError, match="'brand-new'"):
        tokenizer.build(GGUFFile(path))
