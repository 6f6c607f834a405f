"""Choices between subschemas that a solver has not made yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrace.text.structured.keywords import Node, Schema
from headrace.text.structured.record import Term


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice between options, each a list of terms."""

    options: Sequence[Sequence[Term]]
    owners: frozenset[Term]  # the term with the choice and those that led to it; options must not lead back
    is_avoiding: bool = False  # the options are ways to avoid a schema: one is enough
    avoided: Term | None = None  # that schema


@dataclass(slots=True)
class Applied:
    """What remains open after subschemas were applied."""

    choices: list[Choice]
    negatives: list[tuple[Term, frozenset[Term]]]  # terms that must not hold, with their owners


def dependent(words: Schema) -> Iterator[tuple[str, Node]]:
    """Yield (name, schema): an object with a member of this name must satisfy the schema."""
    for name, others in words.get("dependentRequired", {}).items():
        yield name, {"required": list(others)}
    yield from words.get("dependentSchemas", {}).items()
