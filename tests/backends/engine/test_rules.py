"""A constraint that waits for the end of the thoughts, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.backends.engine.rules import AfterThinking, Thoughts
from headrace.models.catalog import Model
from headrace.text.reasoning import Thinking
from headrace.text.structured.grammar import Grammars
from headrace.text.tokenizer import Tokenizer
from headrace.types import Format

THINKING = Thinking("<think>", "</think>")
FORM = Format("json_schema", {"enum": ["yes", "no"]})


@pytest.fixture(scope="module")
def tokenizer(default_model: Model) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.fixture(scope="module")
def grammars(default_model: Model, tokenizer: Tokenizer) -> Grammars:
    ends = default_model.eos_token_ids
    return Grammars(tokenizer.bytes_of_tokens, tokenizer.special, ends, tokenizer.encode)


@pytest.fixture(scope="module")
def thoughts(default_model: Model, tokenizer: Tokenizer) -> Thoughts:
    return Thoughts(tokenizer, THINKING, default_model.eos_token_ids)


def allowed(constraint: AfterThinking, tokenizer: Tokenizer) -> set[int]:
    mask = np.zeros(-(-tokenizer.vocabulary // 32), np.int32)
    constraint.fill(mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: tokenizer.vocabulary]
    return set(np.flatnonzero(bits).tolist())


def follow(constraint: AfterThinking, tokenizer: Tokenizer, text: str) -> None:
    """Every token of the text is allowed in its turn."""
    for token in tokenizer.encode(text):
        assert token in allowed(constraint, tokenizer), tokenizer.token_text(token)
        constraint.accept(token)


@pytest.mark.parametrize("thought", ["", "Hm.", "<", "</thin", "<b></b>", "λ😀", "<think>"])
def test_anything_but_an_end_may_be_thought_and_then_the_form_holds(
    grammars: Grammars, thoughts: Thoughts, tokenizer: Tokenizer, thought: str
) -> None:
    constraint = AfterThinking(grammars.compile(FORM), thoughts, is_open=True)
    follow(constraint, tokenizer, thought)
    assert not {0, 2} & allowed(constraint, tokenizer)
    assert len(allowed(constraint, tokenizer)) > 40_000
    follow(constraint, tokenizer, "</think>")
    first = allowed(constraint, tokenizer)
    assert {tokenizer.token_text(token)[0] for token in first} == {'"'}
    follow(constraint, tokenizer, '"yes"')
    assert allowed(constraint, tokenizer) == {0, 2}


def test_no_token_ends_the_thoughts_and_begins_the_answer(
    grammars: Grammars, thoughts: Thoughts, tokenizer: Tokenizer
) -> None:
    constraint = AfterThinking(grammars.compile(FORM), thoughts, is_open=True)
    [both], [closing] = tokenizer.encode('>"'), tokenizer.encode(">")
    assert both in allowed(constraint, tokenizer), "before the mark has begun it is harmless"
    follow(constraint, tokenizer, "So</think")
    assert both not in allowed(constraint, tokenizer)
    assert closing in allowed(constraint, tokenizer)


def test_white_space_in_the_token_that_ends_the_thoughts_is_no_matter(
    grammars: Grammars, default_model: Model, tokenizer: Tokenizer
) -> None:
    """The mark here ends like a token of which the rest is longer than the mark."""
    [spaces] = tokenizer.encode("\n" + " " * 7)
    assert len(tokenizer.token_bytes(spaces)) > 6
    thoughts = Thoughts(tokenizer, Thinking("[", "\n"), default_model.eos_token_ids)
    constraint = AfterThinking(grammars.compile(FORM), thoughts, is_open=True)
    assert spaces in allowed(constraint, tokenizer)
    constraint.accept(spaces)
    follow(constraint, tokenizer, '"no"')


def test_mark_may_begin_an_answer_once(
    grammars: Grammars, default_model: Model, tokenizer: Tokenizer
) -> None:
    """Where it is one token. What comes after thoughts is the answer, though it look like more of them."""
    begin = tokenizer.special["<file_sep>"]
    thoughts = Thoughts(tokenizer, Thinking("<file_sep>", "</think>"), default_model.eos_token_ids)
    constraint = AfterThinking(grammars.compile(FORM), thoughts, is_open=False)
    assert begin in allowed(constraint, tokenizer)
    constraint.accept(begin)
    follow(constraint, tokenizer, "So.</think>")
    assert begin not in allowed(constraint, tokenizer)
    follow(constraint, tokenizer, '"no"')
    already = AfterThinking(grammars.compile(FORM), thoughts, is_open=True)
    follow(already, tokenizer, "</think>")
    assert begin not in allowed(already, tokenizer)
    without = AfterThinking(grammars.compile(FORM), thoughts, is_open=False)
    follow(without, tokenizer, '"no"')
