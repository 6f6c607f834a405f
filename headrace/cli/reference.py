"""The configuration reference, generated from the options: `python -m headrace.cli.reference >
docs/configuration.md`.
"""

from __future__ import annotations

import itertools
import sys
from typing import Literal, get_args, get_origin

from pydantic import ByteSize

from headrace.config import DEFAULT_FILE, Option, options

HEAD = f"""# Configuration

Written by `make docs` from the code; do not edit.

Four places, each overriding the one before: defaults, a TOML file (`--config FILE`, `HEADRACE_CONFIG`, else
`{DEFAULT_FILE}` in the working directory if there is one), environment variables, flags. An unknown key, a
value that
does not parse, and two environment variables for one key that disagree stop the start with exit code 2,
naming the key,
the value and what would be valid. `headrace check-config` prints the effective configuration and where each
value comes from.
"""


def reference() -> str:
    """The whole page."""
    lines = [HEAD]
    for section, group in itertools.groupby(options(), lambda option: option.section):
        lines += [
            f"## [{section}]",
            "",
            "| key | default | flag | environment | meaning |",
            "|---|---|---|---|---|",
        ]
        lines += [*map(_row, group), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(option: Option) -> str:
    variables = ", ".join(f"`{name}`" for name in option.variables)
    flag = "positional" if option.section == "models" else f"`{option.flag}`"
    meaning = f"{option.info.description}{_choices(option)}"
    return f"| `{option.name}` | {_default(option)} | {flag} | {variables} | {meaning} |"


def _default(option: Option) -> str:
    if option.info.default_factory is not None:
        return "the platform's folder"
    value = option.info.default
    if isinstance(value, ByteSize):
        return f"`{value.human_readable()}`" if value else "`0`"
    return f"`{list(value) if isinstance(value, tuple) else value!r}`".replace("'", '"').replace(
        "False", "false"
    )


def _choices(option: Option) -> str:
    kind = option.info.annotation
    if get_origin(kind) is not Literal:
        return ""
    return " One of " + ", ".join(f"`{choice}`" for choice in get_args(kind)) + "."


if __name__ == "__main__":
    sys.stdout.write(reference())
