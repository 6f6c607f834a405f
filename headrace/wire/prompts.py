"""The texts of completions and embeddings: a string, strings, token ids, or lists of token ids."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, StringConstraints, Tag

from headrace.wire.generation import TokenId
from headrace.wire.limits import MAX_INPUTS, MAX_PROMPTS, MAX_TOKENS, at_most

Tokens = Annotated[list[TokenId], at_most(MAX_TOKENS, least=1)]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


def _tag(value: object) -> str:
    """The kind of a list, by its first element, so that an error is about the element that differs."""
    if not isinstance(value, list):
        return "string"
    if value and isinstance(value[0], str):
        return "strings"
    return "lists" if value and isinstance(value[0], list) else "tokens"


Prompts = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], at_most(MAX_PROMPTS), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], at_most(MAX_PROMPTS), Tag("lists")],
    Discriminator(_tag),
]
Inputs = Annotated[
    Annotated[NonEmpty, Tag("string")]
    | Annotated[list[NonEmpty], at_most(MAX_INPUTS), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], at_most(MAX_INPUTS), Tag("lists")],
    Discriminator(_tag),
]


def texts(value: str | list[str] | list[int] | list[list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """The texts in order, each a string or a tuple of token ids."""
    if isinstance(value, str):
        return (value,)
    tokens = tuple(item for item in value if isinstance(item, int))
    if tokens:
        return (tokens,)
    return tuple(
        item if isinstance(item, str) else tuple(item) for item in value if not isinstance(item, int)
    )
