"""Texts as an encoder reads them: with marks, bounded, cut only where that is requested."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import BadRequest, ContextTooLong, ModelError
from headrace.text.encoder_tokenizer import READ, EncoderTokenizer
from tests.text.word_tokenizer import CLS, SEP, WORDS, write_word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> EncoderTokenizer:
    return EncoderTokenizer(folder, 8)


def encoded(tokenizer: EncoderTokenizer, text: str | tuple[int, ...], keep: int | None = None) -> list[int]:
    ids: list[int] = tokenizer.encode([text], "input", keep)[0].tolist()
    return ids


def test_marks_are_around_each_text(tokenizer: EncoderTokenizer) -> None:
    found = tokenizer.encode(["The wheel turns.", "The"] * 20, "input")
    assert [ids.tolist() for ids in found] == [[CLS, 4, 5, 6, 7, 8, SEP], [CLS, 4, SEP]] * 20
    assert (tokenizer.vocabulary, tokenizer.num_marks) == (len(WORDS), 2)


def test_a_longer_text_is_refused_with_its_length(tokenizer: EncoderTokenizer) -> None:
    assert len(encoded(tokenizer, "the wheel the wheel the wheel")) == 8
    with pytest.raises(ContextTooLong, match=r"requested 9 tokens.*truncate_prompt_tokens") as raised:
        tokenizer.encode(["the", "the wheel the wheel the wheel the"], "input")
    assert (raised.value.param, raised.value.limit, raised.value.requested) == ("input.1", 8, 9)


def test_a_cut_text_keeps_its_end_and_its_marks(tokenizer: EncoderTokenizer) -> None:
    text = "the wheel the wheel turns . wheel"
    assert encoded(tokenizer, text, -1) == [CLS, 4, 5, 6, 7, 8, 5, SEP]
    assert encoded(tokenizer, text, 4) == [CLS, 8, 5, SEP]
    assert encoded(tokenizer, text, 1000) == encoded(tokenizer, text, -1)
    assert encoded(tokenizer, "the", 4) == [CLS, 4, SEP]
    for keep in (0, 1, 2):
        with pytest.raises(BadRequest, match="nothing would be left"):
            encoded(tokenizer, text, keep)


def test_a_prompt_precedes_each_text_and_is_never_cut(tokenizer: EncoderTokenizer) -> None:
    def after(text: str, keep: int | None = None) -> list[int]:
        ids: list[int] = tokenizer.encode([text], "input", keep, "the ")[0].tolist()
        return ids

    assert after("wheel") == [CLS, 4, 5, SEP]
    assert after("turn turn wheel . turn wheel .", -1) == [CLS, 4, 5, 8, 6, 5, 8, SEP]
    assert after("turn wheel", 4) == [CLS, 4, 5, SEP]
    assert after("wheel " * 9999, 4) == [CLS, 4, 5, SEP]
    with pytest.raises(BadRequest, match="a prompt of 1 tokens"):
        after("wheel", 3)


def test_ids_are_taken_as_they_are(tokenizer: EncoderTokenizer) -> None:
    assert encoded(tokenizer, (4, 5)) == [4, 5]
    assert encoded(tokenizer, (4, 5, 6, 7), 3) == [5, 6, 7]
    with pytest.raises(BadRequest, match=r"input\.0: 9 is no token"):
        encoded(tokenizer, (4, 9))
    with pytest.raises(ContextTooLong):
        encoded(tokenizer, (4,) * 9)


@pytest.mark.parametrize("character", [" ", "x", "the ", "\u4f60"])
def test_only_so_much_of_a_text_is_read(tokenizer: EncoderTokenizer, character: str) -> None:
    text = character * 9 * READ
    with pytest.raises(ContextTooLong, match="about"):
        encoded(tokenizer, text)
    fitting = encoded(tokenizer, text + " wheel", -1)
    assert (fitting[0], fitting[-2:]) == (CLS, [5, SEP])


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a tokenizer"):
        EncoderTokenizer(tmp_path, 8)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a tokenizer"):
        EncoderTokenizer(tmp_path, 8)
