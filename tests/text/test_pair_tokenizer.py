"""A query and documents as a cross-encoder reads them."""

from __future__ import annotations

import pytest

from headrace.errors import BadRequest, ContextTooLong
from headrace.text.encoder_tokenizer import PairTokenizer
from tests.text.word_tokenizer import CLS, SEP, write_word_tokenizer

THE, WHEEL, TURN = 4, 5, 6


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PairTokenizer:
    return PairTokenizer(write_word_tokenizer(tmp_path_factory.mktemp("tokenizer")), 8)


def encoded(
    tokenizer: PairTokenizer, query: str, document: str, keep: int | None = None
) -> tuple[list[int], list[int]]:
    pair = tokenizer.encode(query, [document], keep)[0]
    return pair.ids.tolist(), pair.types.tolist()


def test_a_pair_has_its_marks_and_types(tokenizer: PairTokenizer) -> None:
    expected = ([CLS, THE, SEP, WHEEL, TURN, SEP], [0, 0, 0, 1, 1, 1])
    assert encoded(tokenizer, "the", "wheel turn") == expected
    assert len(tokenizer.encode("the", ["wheel"] * 40)) == 40
    assert tokenizer.num_marks == 3


def test_a_longer_document_is_refused_with_its_place(tokenizer: PairTokenizer) -> None:
    with pytest.raises(ContextTooLong) as raised:
        tokenizer.encode("the", ["wheel", "wheel turn the wheel turn"])
    assert (raised.value.param, raised.value.limit, raised.value.requested) == ("documents.1", 8, 9)


def test_a_cut_document_keeps_its_end(tokenizer: PairTokenizer) -> None:
    long = "wheel wheel wheel turn the"
    assert encoded(tokenizer, "the", long, -1)[0] == [CLS, THE, SEP, WHEEL, WHEEL, TURN, THE, SEP]
    assert encoded(tokenizer, "the", long, 1)[0] == [CLS, THE, SEP, THE, SEP]


@pytest.mark.parametrize(
    ("query", "keep", "param"), [("the " * 6, -1, "query"), ("the", 0, "truncate_prompt_tokens")]
)
def test_nothing_would_be_left(tokenizer: PairTokenizer, query: str, keep: int, param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        tokenizer.encode(query, ["wheel"], keep)
    assert raised.value.param == param
