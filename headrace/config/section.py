"""The base class of the sections, and the names of keys outside the file. Reads secrets that stand elsewhere:
`env:NAME` is an environment variable, `file:PATH` the text of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from headrace.errors import ConfigError
from headrace.small_files import read_small_text


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


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from. Paths in them are relative to `folder`."""

    name: str
    folder: Path
    environment: Mapping[str, str]


def secret(key: str, text: str, source: Source) -> str:
    """The secret that a text refers to, or is. `key`: the option, for errors. Raises ConfigError."""
    scheme, _, name = text.partition(":")
    value = text
    if scheme == "env":
        value = source.environment.get(name, "").strip()
        if not value:
            raise ConfigError(f"{key} = {text!r} ({source.name}): the environment has no {name}")
    elif scheme == "file":
        value = _of_file(key, text, name, source)
    if len(value.splitlines()) > 1:  # no header can have it
        raise ConfigError(f"{key} ({source.name}) has several lines")
    return value


def _of_file(key: str, text: str, name: str, source: Source) -> str:
    path = source.folder / Path(name).expanduser()
    try:
        value = read_small_text(path).removeprefix("\ufeff").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is no text"
        raise ConfigError(f"{key} = {text!r} ({source.name}): {path} cannot be read: {reason}") from exc
    if not value:
        raise ConfigError(f"{key} = {text!r} ({source.name}): {path} is empty")
    return value


def secrets(key: str, value: object, source: Source) -> object:
    """The value of a secret option, a text or several, with what they refer to. Other values are unchanged:
    they are refused where values are checked.
    """
    if isinstance(value, str):
        return secret(key, value, source)
    if isinstance(value, Mapping):
        return {name: secrets(key, each, source) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [secrets(key, each, source) for each in value]
    return value
