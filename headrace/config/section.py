"""What every section of the tree is, and how a key is called outside the file."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Names:
    """How a key is called outside the file, beside HEADRACE_KEY and --key."""

    aliases: tuple[str, ...] = ()  # environment variables in common use
    flag: str | None = None  # when it is not the key's own name
    variable: str | None = None  # when it is not the key's own name
    is_secret: bool = False
    ignores_case: bool = False


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
