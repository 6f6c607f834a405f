"""A text that is cut has the tokens of the whole: for each way of cutting words that we know."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from headrace.models.tokenizer import PATTERNS, build_pretokenizer
from headrace.text import cuts
from headrace.text.bounds import ALPHABET
from headrace.text.cuts import SIZE, is_cuttable, next_cut, pieces
from headrace.text.tokenizer import Tokenizer as Ours

TEXTS = st.lists(
    st.sampled_from([*"abcXYZ    \n\n\t.,;:!?()'7", "'s", "'ll", "漢", "。", "か", "한", "é", "😀", "\x04",
                     "123", "\r\n", "e\u0301", "\u3000", "\u0301", "\u3099", "/", "\ufdd0"])
    | st.characters(codec="utf-8"),
    max_size=60,
).map("".join)  # fmt: skip


def tokenizer_of(pre: str) -> Tokenizer:
    """Each pair of its first 40 tokens is a token too, so that words that were cut elsewhere would show."""
    vocabulary = {one: number for number, one in enumerate(sorted(ALPHABET))}
    common = [*"abcXYZ.,'", *(one for one, byte in ALPHABET.items() if byte in (10, 32, 0xE6, 0xBC))]
    merges = [(left, right) for left in common for right in common]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = build_pretokenizer(pre, vocabulary)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def tokenizer_by_pre(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(request.param)


@settings(deadline=None, max_examples=200)
@given(text=TEXTS)
def test_pieces_have_the_tokens_of_the_whole(tokenizer_by_pre: Tokenizer, text: str) -> None:
    assert is_cuttable(json.loads(tokenizer_by_pre.to_str()))
    position, joined = 0, []
    while position < len(text):
        end = next_cut(text, position + 1)
        joined += tokenizer_by_pre.encode(text[position:end]).ids
        position = end
    assert joined == tokenizer_by_pre.encode(text).ids


def test_pieces_are_about_as_long_as_they_should_be() -> None:
    text = "The wheel turns the millstone. " * 10_000
    cut = list(pieces(text))
    assert "".join(cut) == text
    assert all(SIZE <= len(piece) <= SIZE + 40 for piece in cut[:-1])
    whole = "7" * 100_000
    assert list(pieces(whole)) == [whole]


def test_long_text_has_the_same_ids_piece_by_piece(tokenizer: Ours) -> None:
    text = "A headrace carries water, the wheel turns; 漢字 and 😀 too.\n  " * 2500
    assert len(text) > 4 * SIZE
    whole = tokenizer._library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == whole
    some = tokenizer.encode(text, at_most=100)
    assert 100 < len(some) < len(whole) // 2
    assert some == whole[: len(some)]
    for count in (1, 7, 1000, 20_000, len(whole), len(whole) + 1):
        assert tokenizer.encode_end(text, count) == whole[-count:]


@pytest.mark.parametrize("unit", ["water ", "漢字。", " ", "7", "\x16", "a", "\n"])
def test_the_end_of_a_text_is_short_work_whatever_it_is_made_of(tokenizer: Ours, unit: str) -> None:
    """Where it cannot be cut, the last token is the same as the whole's all the same."""
    text = unit * (300_000 // len(unit)) + " and the end."
    whole = tokenizer.encode(text)
    found = tokenizer.encode_end(text, 50)
    assert found[-4:] == whole[-4:]
    assert len(found) == min(50, len(whole))


def test_the_end_of_a_rendered_text_is_that_of_the_whole(tokenizer: Ours) -> None:
    said = "".join(f"<|im_start|>user\nTell me {number}.<|im_end|>\n" for number in range(3000))
    whole = tokenizer.encode_rendered(said)
    for count in (1, 2, 9, 5000, len(whole), len(whole) + 5):
        assert tokenizer.encode_rendered_end(said, count) == whole[-count:]


@pytest.mark.parametrize(
    "changed",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": json.loads(normalizers.Strip().__getstate__())},
        {"added_tokens": [{"content": "new york", "special": False}]},
        {"added_tokens": [{"content": "mark", "special": False, "lstrip": True}]},
        {"pre_tokenizer": json.loads(pre_tokenizers.ByteLevel(add_prefix_space=True).__getstate__())},
        {"pre_tokenizer": json.loads(pre_tokenizers.Metaspace().__getstate__())},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\w+ ?\w+"}, "behavior": "Isolated"}},
        {"pre_tokenizer": None},
    ],
    ids=str,
)
def test_what_is_not_known_is_not_cut(changed: dict[str, Any]) -> None:
    description = json.loads(tokenizer_of("gpt-2").to_str())
    assert is_cuttable(description)
    assert not is_cuttable({**description, **changed})


def test_published_tokenizers_are_known() -> None:
    for expression in sorted(cuts._WHOLE):
        steps = [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]
        assert is_cuttable({"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}})
    added = AddedToken("<|x|>", special=True)
    assert is_cuttable({"pre_tokenizer": {"type": "ByteLevel", "use_regex": True}, "added_tokens": [
        {"content": added.content, "special": True, "lstrip": True}]})  # fmt: skip
