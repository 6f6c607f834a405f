"""Texts as completions and embeddings take them: a string, strings, token ids, or lists of token ids."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, StringConstraints, Tag

from headrace.wire.generation import TokenId

MAX_PROMPTS = 1024
MAX_INPUTS = 2048  # OpenAI's

Tokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


def _tag(value: object) -> str:
    """By its first element, so that the complaint is about the element that does not fit it."""
    if not isinstance(value, list):
        return "string"
    if value and isinstance(value[0], str):
        return "strings"
    return "lists" if value and isinstance(value[0], list) else "tokens"


Prompts = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], Field(max_length=MAX_PROMPTS, fail_fast=True), Tag("lists")],
    Discriminator(_tag),
]
Inputs = Annotated[
    Annotated[NonEmpty, Tag("string")]
    | Annotated[list[NonEmpty], Field(max_length=MAX_INPUTS, fail_fast=True), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], Field(max_length=MAX_INPUTS, fail_fast=True), Tag("lists")],
    Discriminator(_tag),
]


def texts(given: str | list[str] | list[int] | list[list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """Each text by itself, in order."""
    if isinstance(given, str):
        return (given,)
    tokens = tuple(item for item in given if isinstance(item, int))
    if tokens:
        return (tokens,)
    return tuple(
        item if isinstance(item, str) else tuple(item) for item in given if not isinstance(item, int)
    )
