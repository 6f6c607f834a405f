"""The base class of the sections, and the names of keys outside the file."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Names:
    """A key's names outside the file, beside HEADRACE_KEY and --key."""

    aliases: tuple[str, ...] = ()  # environment variables in common use
    flag: str | None = None  # if it differs from the key's name
    variable: str | None = None  # HEADRACE_…, if it differs from the key's name
    is_secret: bool = False
    ignores_case: bool = False


class Section(BaseModel):
    """A table of the configuration: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
