"""Generates the configuration reference from the options: `python -m docgen.configuration >
docs/configuration.md`.
"""

from __future__ import annotations

import itertools
import sys
from typing import Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from headrace.cli.arguments import POSITIONAL
from headrace.config import DEFAULT_FILE, Option, PriceConfig, ProviderConfig, RouteConfig, options

HEAD = f"""# Configuration

Written by `make docs` from the code; do not edit.

Options come from four places, each overriding the one before: defaults, a TOML file (`--config FILE`,
`HEADRACE_CONFIG`, else `{DEFAULT_FILE}` in the working directory), environment variables, flags. For example:

```toml
[server]
port = 9000
api_keys = ["a-long-random-key"]

[providers.ollama]
kind = "ollama"
base_url = "http://127.0.0.1:11434"
```

`headrace check-config` prints the effective configuration and where each value comes from. A mistake (an
unknown key, an invalid value, two environment variables that disagree) stops the start with exit code 2 and a
message that names it.

A secret (keys, addresses of databases, headers of providers) may be written as `env:NAME`, an environment
variable, or `file:PATH`, a file with nothing else in it; relative paths in the configuration file start
at its folder. `check-config`, logs and errors show no secret.
"""


PROVIDERS, ROUTES, PRICES = "[providers.NAME]", "[routes.NAME]", '[prices."MODEL"]'
ABOUT_PROVIDERS = """\
Remote providers, one table each, in the file only. NAME has lower-case letters, digits and dashes; requests
address the provider as `NAME:MODEL` and under `/NAME/v1/…`. If the file has no providers, environment
variables configure them: `ANTHROPIC_API_KEY` (with `ANTHROPIC_BASE_URL`), `CEREBRAS_API_KEY` (with
`CEREBRAS_BASE_URL`), and `OLLAMA_HOST` or `OLLAMA_BASE_URL`. `headrace check-config --online` fetches each
provider's list of models.
"""
ABOUT_ROUTES = """Aliases for several targets, tried in order: [routing.md](routing.md). In the file only.
"""

ABOUT_PRICES = """\
What models cost, for budgets and for `headrace usage`: [operations.md](operations.md#usage). MODEL is the id
of a local model, or `PROVIDER:MODEL`. In the file only.
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
    for title, text, kind in (
        (PROVIDERS, ABOUT_PROVIDERS, ProviderConfig),
        (ROUTES, ABOUT_ROUTES, RouteConfig),
        (PRICES, ABOUT_PRICES, PriceConfig),
    ):
        lines += [f"## {title}", "", text, "| key | default | meaning |", "|---|---|---|"]
        lines += [*(_member(name, info) for name, info in kind.model_fields.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _member(name: str, info: FieldInfo) -> str:
    default = "needed" if info.is_required() else f"`{_written(info.default)}`"
    return f"| `{name}` | {default} | {info.description}{_choices(info.annotation)} |"


def _written(value: object) -> str:
    """A default value, approximately as TOML."""
    if value is None:
        return "(none)"
    plain = list(value) if isinstance(value, tuple) else value
    return repr(plain).replace("'", '"').replace("False", "false").replace("True", "true")


def _row(option: Option) -> str:
    variables = ", ".join(f"`{name}`" for name in option.variables)
    off = "--no-" + option.name.replace("_", "-")
    spelling = off if option.is_switch and option.info.default else option.flag
    flag = "positional" if option.key in POSITIONAL else f"`{spelling}`"
    meaning = f"{option.info.description}{_choices(option.info.annotation)}"
    return f"| `{option.name}` | {_default(option)} | {flag} | {variables} | {meaning} |"


def _default(option: Option) -> str:
    if option.info.default_factory is not None:
        return "the platform's folder"
    value = option.info.default
    if isinstance(value, ByteSize):
        return f"`{value.human_readable()}`" if value else "`0`"
    return f"`{_written(value)}`"


def _choices(kind: object) -> str:
    if get_origin(kind) is not Literal:
        return ""
    return " One of " + ", ".join(f"`{choice}`" for choice in get_args(kind)) + "."


if __name__ == "__main__":
    sys.stdout.write(reference())
