"""The names of each key of the tree: in the file, in the environment, on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from headrace.config.section import Names, Section
from headrace.config.sections import Config
from headrace.errors import ConfigError

PREFIX = "HEADRACE_"
LONGEST = 200  # characters of a value in an error


@dataclass(frozen=True, slots=True)
class Option:
    """One key of the tree, with all its names."""

    section: str
    name: str
    info: FieldInfo
    names: Names

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variables(self) -> tuple[str, ...]:
        return (PREFIX + (self.names.variable or self.name.upper()), *self.names.aliases)

    @property
    def flag(self) -> str:
        return self.names.flag or "--" + self.name.replace("_", "-")

    @property
    def is_list(self) -> bool:
        return self.info.default == () and self.info.default_factory is None

    @property
    def is_switch(self) -> bool:
        return self.info.annotation is bool

    def validate(self, value: object, source: str) -> object:
        """The value in its type. Raises ConfigError."""
        raw = value.upper() if isinstance(value, str) and self.names.ignores_case else value
        if isinstance(value, bool) and not self.is_switch:
            raw = str(value)  # pydantic would accept true as the number 1
        kind: Any = Annotated[self.info.annotation, self.names, *self.info.metadata]
        try:
            return TypeAdapter[object](kind).validate_python(raw)
        except ValidationError as exc:
            reason = exc.errors(include_url=False)[0]["msg"]
            text = shown(value, is_secret=self.names.is_secret)
            # Not chained: pydantic's message contains the value, which may be secret.
            raise ConfigError(f"{self.key} = {text} ({source}): {reason}") from None


def options() -> list[Option]:
    """Every key, in the order of the tree."""
    every = []
    for section, outer in Config.model_fields.items():
        kind = outer.annotation
        if not isinstance(kind, type) or not issubclass(kind, Section):
            continue  # tables of the user's own names
        for name, info in kind.model_fields.items():
            names = next((note for note in info.metadata if isinstance(note, Names)), Names())
            every.append(Option(section, name, info, names))
    return every


def shown(value: object, *, is_secret: bool = False) -> str:
    """A setting's value, for an error message. Secrets, and what may be NAME:PASSWORD@HOST, are hidden."""
    text = repr(value)
    if is_secret or "@" in text:
        return "(secret)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def near(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: similar known names, or all of them."""
    similar = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(similar)}?" if similar else f"; known: {', '.join(sorted(known))}"
