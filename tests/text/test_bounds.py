"""The fewest tokens that a text can become is never more than those that it does become."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from headrace.backends.engine.prompt import Prompts
from headrace.errors import ContextTooLong, TextTooLong
from headrace.models.catalog import Model
from headrace.text.bounds import ALPHABET, UNKNOWN, Bound, check_size
from headrace.text.tokenizer import Tokenizer as Ours

# what shortens under some normalizer, what is dropped, what merges into the longest tokens
ODD = st.sampled_from(
    ["\u212a", "\u1fbe\u0308\u0301", "\u1100\u1161\u11a8", "\U0001d400", "\ufb03", "e\u0301", "\x04", "\x16",
     " " * 90, "#" * 81, "=" * 70, "\n" + " " * 90, "word ", "漢字", "😀"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(ODD | st.text(max_size=4), max_size=20).map("".join))
def test_the_default_models_bound_holds(tokenizer: Ours, text: str) -> None:
    assert tokenizer.bound.tokens(text) <= len(tokenizer.encode(text))


def byte_level(normalizer: Any = None, pre: Any = None) -> tuple[Tokenizer, dict[str, Any]]:
    """Every byte is a token, and so are two spaces, and a long run of them."""
    space = next(one for one, byte in ALPHABET.items() if byte == 32)
    vocabulary = {one: number for number, one in enumerate(sorted(ALPHABET))}
    merges = []
    for power in range(5):
        half = space * 2**power
        vocabulary[half * 2] = len(vocabulary)
        merges.append((half, half))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    steps = [pre] if pre else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer, json.loads(tokenizer.to_str())


def bound_of(tokenizer: Tokenizer, description: dict[str, Any]) -> Bound:
    names = {id: name for name, id in tokenizer.get_vocab().items()}
    return Bound(description, [bytes(ALPHABET[one] for one in names[id]) for id in range(len(names))])


@pytest.mark.parametrize(
    ("normalizer", "shrink"),
    [
        (None, 1),
        (normalizers.NFC(), 3.5),
        (normalizers.NFKC(), 4),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]), 10.5),
        (normalizers.Replace(" ", "\u2581"), 1),
        (normalizers.Replace("\u2581", " "), UNKNOWN),
        (normalizers.Strip(), UNKNOWN),
        (normalizers.StripAccents(), UNKNOWN),
    ],
    ids=str,
)
@settings(deadline=None, max_examples=30)
@given(text=st.lists(ODD | st.text(max_size=4), max_size=20).map("".join))
def test_what_normalizers_take_away_is_allowed_for(normalizer: Any, shrink: float, text: str) -> None:
    tokenizer, description = byte_level(normalizer)
    bound = bound_of(tokenizer, description)
    assert (bound.longest, bound.shrink) == (32, shrink)
    assert bound.tokens(text) <= len(tokenizer.encode(text).ids)


@pytest.mark.parametrize("pre", [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("x", "removed")])
def test_what_is_cut_away_is_allowed_for(pre: Any) -> None:
    assert bound_of(*byte_level(pre=pre)).shrink == UNKNOWN
    assert bound_of(*byte_level(pre=pre_tokenizers.Split("x", "isolated"))).shrink == 1


def test_a_word_that_takes_white_space_with_it_is_allowed_for() -> None:
    tokenizer, _ = byte_level()
    tokenizer.add_tokens([AddedToken("mark", lstrip=True, special=False)])
    assert Bound(json.loads(tokenizer.to_str()), [b" " * 32]).shrink == UNKNOWN


def test_bytes_without_a_token_are_not_counted(tokenizer: Ours) -> None:
    """The default model has none for 0x16: a megabyte of them is no token at all."""
    assert tokenizer.encode("\x16" * 1000) == []
    assert tokenizer.bound.tokens("\x16" * 1_000_000) == 0
    assert tokenizer.bound.tokens("\x16a" * 1_000_000) > 10_000


class Counted(Ours):
    """A tokenizer that counts the characters that it was given."""

    num_read = 0

    def encode(self, text: str, at_most: int | None = None) -> list[int]:
        self.num_read += len(text)
        return super().encode(text, at_most)


def test_twelve_megabytes_are_judged_without_being_tokenized(default_model: Model) -> None:
    tokenizer = Counted(default_model.folder)
    prompts = Prompts(default_model, tokenizer, default_model.context_length)
    for text in ("The wheel turns. " * (12 * 2**20 // 17), "The wheel turns."):
        with suppress(ContextTooLong):
            prompts.of_text(text, "prompt", prompts.room(None, None))
    assert tokenizer.num_read == len("The wheel turns.")


def test_a_texts_size_is_counted_in_bytes() -> None:
    check_size("é" * 50, 100, "prompt")
    for text in ("é" * 51, "x" * 101):
        with pytest.raises(TextTooLong) as raised:
            check_size(text, 100, "prompt")
        assert (raised.value.param, raised.value.code) == ("prompt", "string_above_max_length")
        assert len(raised.value.message) < 100
