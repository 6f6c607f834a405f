from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.text.tokenizer import Detokenizer, Tokenizer

WORLD = "🧑‍🚀 né 漢字 😀 ẞ ﷽ 👩‍👩‍👧‍👦 ก็"


def whole(tokenizer: Tokenizer, ids: list[int]) -> str:
    return b"".join(tokenizer.token_bytes(id) for id in ids).decode("utf-8", "replace")


@settings(deadline=None)
@given(st.data())
def test_pieces_joined_equal_the_bytes_decoded_at_once(tokenizer: Tokenizer, data: st.DataObject) -> None:
    # the first ids are single bytes: halves of characters in any order
    id = st.one_of(st.integers(0, 300), st.integers(0, tokenizer.vocabulary + 5))
    ids = data.draw(st.lists(id, max_size=40))
    detokenizer = Detokenizer(tokenizer)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == whole(tokenizer, ids)


def test_no_character_is_shown_in_halves(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(WORLD)
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(id) for id in ids]
    assert len(ids) > len(WORLD.split())
    assert "" in pieces, "the text is meant to have characters of several tokens"
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == WORLD


def test_unfinished_character_is_replaced_at_the_end(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    halves = tokenizer.encode("😀")[:-1]
    assert [detokenizer.push(id) for id in halves] == [""] * len(halves)
    assert detokenizer.flush() == "\ufffd"
