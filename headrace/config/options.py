"""How each key of the tree is called: in the file, in the environment, on the command line."""

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
    """One key of the tree, and all it is known by."""

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
        given = value.upper() if isinstance(value, str) and self.names.ignores_case else value
        if isinstance(value, bool) and not self.is_switch:
            given = str(value)  # true is no number
        kind: Any = Annotated[self.info.annotation, self.names, *self.info.metadata]
        try:
            return TypeAdapter[object](kind).validate_python(given)
        except ValidationError as exc:
            reason = exc.errors(include_url=False)[0]["msg"]
            told = shown(value, is_secret=self.names.is_secret)
            # not chained: pydantic's own words would show what is secret
            raise ConfigError(f"{self.key} = {told} ({source}): {reason}") from None


def options() -> list[Option]:
    """Every key, in the order of the tree."""
    found = []
    for section, outer in Config.model_fields.items():
        kind = outer.annotation
        if not isinstance(kind, type) or not issubclass(kind, Section):
            continue  # tables of the user's own names
        for name, info in kind.model_fields.items():
            names = next((note for note in info.metadata if isinstance(note, Names)), Names())
            found.append(Option(section, name, info, names))
    return found


def shown(value: object, *, is_secret: bool = False) -> str:
    """A known setting's value, for an error; not that of a secret, nor what may be NAME:PASSWORD@HOST."""
    text = repr(value)
    if is_secret or "@" in text:
        return "(secret)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def near(name: str, known: Iterable[str]) -> str:
    """What an unknown name may have been meant to be, as the end of a sentence."""
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(found)}?" if found else f"; known: {', '.join(sorted(known))}"
