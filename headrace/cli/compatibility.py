"""What becomes of each parameter, generated from what endpoints ask for and what backends carry: `python -m
headrace.cli.compatibility > docs/compatibility.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Protocol

from headrace.backends.engine import EngineBackend
from headrace.backends.llamacpp import LlamaCppBackend
from headrace.config.kinds import REMOTE, load_kind
from headrace.features import Feature, Use
from headrace.wire.anthropic.tables import MESSAGES
from headrace.wire.parameters import TABLES, Parameter, Table
from headrace.wire.responses.tables import RESPONSES

HEAD = """# Compatibility

Written by `make docs` from the code; do not edit.

What becomes of each request parameter, by endpoint and kind of backend:

- **honoured**: it does what OpenAI's reference (Anthropic's under `/v1/messages`), or for an extension the
  note, says; a value out of range is a 400 that names it;
- **sent**: the provider is asked for it in its own words, and what it makes of it is its own; a value that it
  cannot be asked for is a 400;
- **ignored**: it has no use there and cannot change the output; the response header `X-Headrace-Ignored`
  names it;
- **dropped**: what is sent has no place for it; the header names it, and in strict mode it is a 400;
- **refused**: it would change the output: 400 `unsupported_parameter`, unless it has the value that changes
  nothing;
- **—**: there is no such endpoint: 400.

**Relayed.** Where the caller speaks the provider's own dialect (OpenAI's to `openai` and `cerebras`,
Anthropic's to `anthropic`), the body goes on as it came: everything in it arrives, whatever the table says.
The table holds where a request is translated: to providers of another dialect, along routes that have such
targets, in strict mode, and to Cerebras where more than a limit has to be changed: with chat's `max_tokens`,
thoughts in the history, or a parameter that it refuses. Along a route the column of the target that answers
counts.

**Other servers.** Sampling members of llama.cpp, vLLM, SGLang, TGI, Ollama, text-generation-webui and
transformers stand in the table too. Their value that switches them off (`typical_p: 1`, `mirostat: 0`,
`dry_multiplier: 0`, an empty list) passes, and so does a member that only says how another one works while
that one is off (`mirostat_tau`, `dry_base`, `xtc_threshold`).

**On purpose otherwise than OpenAI's documentation**: `max_output_tokens` may be less than 16; `DELETE
/v1/models/{id}` is 403 for a model that is served (404 for another), for nothing is deleted over the API;
`limit` of a list is 1 to 100 (0 is a 400), and where OpenAI names no bound (stored chat completions and their
messages) a larger one is cut to 100, and `has_more` tells.

A parameter that is not here is ignored and named. With the request header `X-Headrace-Strict: true`, or
`server.strict`, it is a 400, and so is what is dropped. Null means: not given.
"""

EVERY: Mapping[str, Table] = {**TABLES, "responses": RESPONSES, "messages": MESSAGES}
# without it a backend has no such endpoint
NEEDED = {"completions": Feature.TEXT_COMPLETION, "embeddings": Feature.EMBEDDINGS}


class Carrying(Protocol):
    """A class of backends. `by_us`: the features that Headrace itself provides there."""

    features: frozenset[Feature]
    by_us: frozenset[Feature]
    unsent: frozenset[Feature]


def kinds() -> dict[str, Carrying]:
    """The backends that have a column, by its name."""
    remote = {kind: load_kind(REMOTE[kind]) for kind in REMOTE}
    return {"engine": EngineBackend, **remote, "llamacpp": LlamaCppBackend}


def compatibility() -> str:
    """The whole page."""
    columns = kinds()
    lines = [HEAD]
    for endpoint, table in EVERY.items():
        lines += [
            f"## /v1/{endpoint}",
            "",
            f"| parameter | {' | '.join(columns)} | note |",
            f"|---|{'---|' * len(columns)}---|",
            *(_row(endpoint, name, parameter, columns.values()) for name, parameter in table.items()),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _row(endpoint: str, name: str, parameter: Parameter, columns: Iterable[Carrying]) -> str:
    cells = " | ".join(cell(endpoint, parameter, backend) for backend in columns)
    return f"| `{name}` | {cells} | {parameter.note} |"


def cell(endpoint: str, parameter: Parameter, backend: Carrying) -> str:
    """What becomes of a member at a backend, in one word."""
    if endpoint in NEEDED and NEEDED[endpoint] not in backend.features:
        return "—"
    if parameter.asks == "ours":
        return "honoured"
    if parameter.asks == "sent":
        return "honoured" if backend.by_us == backend.features else "sent"
    if parameter.feature in backend.features:
        return "honoured" if parameter.feature in backend.by_us else "sent"
    loss = parameter.loss_where_uncarried()
    assert loss is not None
    return Use("", parameter.feature, loss).loss_at(backend.unsent)


if __name__ == "__main__":
    sys.stdout.write(compatibility())
