from __future__ import annotations

from headrace.types import TokenLogprob
from headrace.wire.token_logprobs import LogprobsWriter


def tokens(*raws: bytes) -> list[TokenLogprob]:
    return [TokenLogprob(raw.decode(errors="replace"), raw, -1.0) for raw in raws]


def test_offsets_count_characters_not_bytes() -> None:
    written = LogprobsWriter().write("é😀a", tokens("é".encode(), "😀".encode(), b"a"))
    assert written["text_offset"] == [0, 1, 2]


def test_tokens_that_share_a_character_begin_where_it_begins() -> None:
    smile = "😀".encode()
    written = LogprobsWriter().write("a😀b", tokens(b"a", smile[:2], smile[2:], b"b"))
    assert written["text_offset"] == [0, 1, 1, 2]


def test_token_whose_beginning_was_sent_before_begins_there() -> None:
    writer = LogprobsWriter()
    assert writer.write("go", tokens(b"go"))["text_offset"] == [0]
    assert writer.write(" ", [])["text_offset"] == []  # "world" might still become a stop string
    assert writer.write("world.", tokens(b" world", b"."))["text_offset"] == [2, 8]


def test_token_that_is_no_text_moves_nothing() -> None:
    writer = LogprobsWriter()
    assert writer.write("The end", tokens(b"<s>", b" The", b" end", b"</s>"))["text_offset"] == [0, 0, 3, 7]
    assert writer.write("!", tokens(b"!"))["text_offset"] == [7]


def test_of_tokens_that_look_alike_the_more_probable_is_reported() -> None:
    top = (("\ufffd", b"\xf0", -0.5), ("\ufffd", b"\xe2", -3.0))
    token = TokenLogprob("\ufffd", b"\xe2", -3.0, top)
    assert LogprobsWriter().write("", [token])["top_logprobs"] == [{"\ufffd": -0.5}]
