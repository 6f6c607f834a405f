"""Which members of a body of /v1/responses are of no effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from headrace.errors import UnsupportedParameter
from headrace.wire.parameters import MAX_NAMED, Table, sort_out
from headrace.wire.responses.body import LOGPROBS, HistoryBody, PromptBody, ResponseBody, includes, tools_of
from headrace.wire.responses.tables import HISTORY, PROMPT, RESPONSES


def ignored(body: HistoryBody, *, strict: bool = False) -> dict[str, str]:
    """The header X-Headrace-Ignored, if there is anything to name: members, and what is skipped of tools and
    items, with its type.

    Raises UnsupportedParameter for a member that would change the output; with `strict`, BadRequest for
    unknown ones.
    """
    table = (
        RESPONSES if isinstance(body, ResponseBody) else PROMPT if isinstance(body, PromptBody) else HISTORY
    )
    header = sort_out(body, table, strict=strict).get("X-Headrace-Ignored")
    named = [] if header is None else [header]
    named += [quote(name, safe="[]:") for name in (*_declared(body, table), *_skipped(body))]
    told = ", ".join(named[:MAX_NAMED])
    return {"X-Headrace-Ignored": told[:1024]} if told else {}


def _declared(body: BaseModel, table: Table) -> Iterator[str]:
    """Members that the body declares, to tell them in the response, and nothing else honours."""
    for path, known in table.items():
        value = _at(body, path.split("."))
        if value is None or known.fates["engine"] == "honoured" or known.is_neutral(value):
            continue
        if known.fates["engine"] == "refused":
            raise UnsupportedParameter(f"{path} is not supported by this server: {known.note}", param=path)
        yield path


def _at(body: object, steps: Sequence[str]) -> Any:
    for step in steps:
        if not isinstance(body, BaseModel) or step not in type(body).model_fields:
            return None
        body = getattr(body, step)
    return body


def _skipped(body: HistoryBody) -> Iterator[str]:
    if isinstance(body, PromptBody):
        yield from tools_of(body).skipped
    if isinstance(body, ResponseBody) and body.top_logprobs and not includes(body, LOGPROBS):
        yield "top_logprobs"
    for index, item in enumerate(body.input or ()):
        if isinstance(item, dict):
            yield f"input.{index}:{item['type']}"
