"""Unions of models that differ in their member `type`."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import cache, partial
from typing import Any, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class ByType:
    """The annotation of such a union. Which types a model is for is written in its own annotation of `type`.
    A model whose `type` is any string, or a dict, is for all other types, or for those in `others`.

    `error` and `message` are those of a value with another type. `untyped` returns the name of the model for
    an object without a type.
    """

    def __init__(
        self,
        error: str,
        message: str,
        *,
        others: Container[str] | None = None,
        untyped: Callable[[dict[str, Any]], str | None] = lambda _: None,
    ) -> None:
        self._error, self._message, self._others, self._untyped = error, message, others, untyped

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds = {kind.__name__: kind for kind in get_args(source)}
        choices = {name: handler.generate_schema(kind) for name, kind in kinds.items()}
        # read later, because models that contain each other are incomplete yet
        names = cache(partial(_names_by_type, kinds))
        return core_schema.tagged_union_schema(
            choices,
            lambda value: self._choose(value, names()),
            custom_error_type=self._error,
            custom_error_message=self._message,
        )

    def _choose(self, value: Any, names: dict[str | None, str]) -> str | None:
        """The name of the model for a value."""
        type = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        if type is None and isinstance(value, dict):
            return self._untyped(value)
        if not isinstance(type, str):
            return None
        is_other = self._others is None or type in self._others
        return names.get(type, names.get(None) if is_other else None)


def _names_by_type(kinds: dict[str, Any]) -> dict[str | None, str]:
    """The names of models by the types that they are for; None stands for other types."""
    names: dict[str | None, str] = {}
    for name, kind in kinds.items():
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        types: list[str | None] = [*_literals(kind.model_fields["type"].annotation)] if is_model else []
        names |= dict.fromkeys(types or [None], name)
    return names


def _literals(annotation: Any) -> Iterator[str]:
    for argument in get_args(annotation):
        yield from (argument,) if isinstance(argument, str) else _literals(argument)
