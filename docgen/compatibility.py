"""What becomes of each parameter, generated from the tables of endpoints and the features of backends:
`python -m docgen.compatibility > docs/compatibility.md`.
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
from headrace.wire.ollama.tables import TABLES as OLLAMA
from headrace.wire.parameters import Parameter, Table
from headrace.wire.responses.tables import RESPONSES
from headrace.wire.tables import TABLES

HEAD = """# Compatibility

Written by `make docs` from the code; do not edit.

Which parameters are supported, by endpoint and by kind of backend:

- **honoured**: It works as in OpenAI's reference (under `/v1/messages`: Anthropic's; under `/api`: Ollama's),
  or as the note says.
  A value out of range is a 400 that names the member.
- **sent**: It is sent to the provider in the provider's own dialect; the effect is the provider's. A value
  that its dialect cannot express is a 400.
- **ignored**: It has no use there and cannot change the output. The response header `X-Headrace-Ignored`
  names it.
- **dropped**: The provider's dialect has no place for it. The header names it; in strict mode it is a 400.
- **refused**: It would change the output: 400 `unsupported_parameter`, unless its value changes nothing.
- **—**: The backend has no such endpoint: 400.

A parameter that is not listed is ignored and named in the header. With the request header
`X-Headrace-Strict: true`, or `server.strict`, it is a 400, and so is what would be dropped. `null` counts
as absent.

**Relayed requests.** If the caller uses the provider's own dialect (OpenAI's for `openai` and `cerebras`,
Anthropic's for `anthropic`), the body is passed on as it came, and everything in it reaches the provider.
The tables apply where a request is translated: to a provider of another dialect, along a route with such a
target, in strict mode, and to Cerebras if more than a limit must change (chat's `max_tokens`, thoughts in
the history, a parameter that it refuses). Along a route the column of the answering target applies.

**Other servers' parameters.** The tables include sampling parameters of llama.cpp, vLLM, SGLang, TGI,
Ollama, text-generation-webui and transformers. A value that switches one off (`typical_p: 1`, `mirostat:
0`, `dry_multiplier: 0`, an empty list) is accepted everywhere, and so are the parameters of one that is off
(`mirostat_tau`, `dry_base`, `xtc_threshold`).

**Differences from OpenAI's documentation**, on purpose: `max_output_tokens` may be less than 16. `DELETE
/v1/models/{id}` is 403 for a served model (404 for others), because nothing is deleted over the API. The
`limit` of a list is 1 to 100 (0 is a 400); where OpenAI names no maximum (stored chat completions and their
messages), a higher one is lowered to 100, and `has_more` says that there is more.
"""

# endpoint → its table; those without a slash in front are under /v1
EVERY: Mapping[str, Table] = {
    **TABLES,
    "responses": RESPONSES,
    "messages": MESSAGES,
    **{f"/api/{name}": table for name, table in OLLAMA.items()},
}
# without it a backend has no such endpoint
NEEDED = {
    "completions": Feature.TEXT_COMPLETION,
    "rerank": Feature.RERANK,
    **dict.fromkeys(("embeddings", "/api/embed", "/api/embeddings"), Feature.EMBEDDINGS),
}


class Carrying(Protocol):
    """A class of backends. `by_us`: the features that Headrace itself provides there."""

    features: frozenset[Feature]
    by_us: frozenset[Feature]
    unsent: frozenset[Feature]


def kinds() -> dict[str, Carrying]:
    """The backends that have a column, by its name."""
    remote = {kind: load_kind(kind) for kind in REMOTE}
    return {"engine": EngineBackend, **remote, "llamacpp": LlamaCppBackend}


def compatibility() -> str:
    """The whole page."""
    columns = kinds()
    lines = [HEAD]
    for endpoint, table in EVERY.items():
        lines += [
            f"## {endpoint}" if endpoint.startswith("/") else f"## /v1/{endpoint}",
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
    loss = parameter.loss_where_uncarried
    assert loss is not None
    return Use("", parameter.feature, loss).loss_at(backend.unsent)


if __name__ == "__main__":
    sys.stdout.write(compatibility())
