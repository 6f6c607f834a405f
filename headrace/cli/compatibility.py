"""What becomes of each parameter, generated from the tables that requests are sorted out by: `python -m
headrace.cli.compatibility > docs/compatibility.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import get_args

from headrace.wire.parameters import TABLES, Kind, Parameter, Table
from headrace.wire.responses.tables import RESPONSES

HEAD = """# Compatibility

Written by `make docs` from the code; do not edit.

What becomes of each request parameter, by endpoint and kind of backend:

- **honoured**: it does what OpenAI's reference (or, for an extension, the note) says; a value out of range
  is a 400 that names it;
- **ignored**: it cannot change the output; the response header `X-Headrace-Ignored` names it;
- **refused**: it would change the output and is not supported: 400 `unsupported_parameter`, unless it has the
  value that changes nothing.

A parameter that is not here is ignored and named; with the request header `X-Headrace-Strict: true`, or
`server.strict`, it is a 400. Null means: not given.
"""

EVERY: Mapping[str, Table] = {**TABLES, "responses": RESPONSES}


def compatibility() -> str:
    """The whole page."""
    kinds = get_args(Kind)
    lines = [HEAD]
    for endpoint, table in EVERY.items():
        lines += [
            f"## /v1/{endpoint}",
            "",
            f"| parameter | {' | '.join(kinds)} | note |",
            f"|---|{'---|' * len(kinds)}---|",
            *_rows(table),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _rows(table: Table) -> list[str]:
    return [_row(name, parameter) for name, parameter in table.items()]


def _row(name: str, parameter: Parameter) -> str:
    fates = " | ".join(parameter.fates[kind] for kind in get_args(Kind))
    return f"| `{name}` | {fates} | {parameter.note} |"


if __name__ == "__main__":
    sys.stdout.write(compatibility())
