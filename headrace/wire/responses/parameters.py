"""Which members of a body of /v1/responses are of no effect."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.types import BackendKind
from headrace.wire import parameters
from headrace.wire.items.encrypted_content import thoughts_in
from headrace.wire.items.input_models import ReasoningItem
from headrace.wire.parameters import Table
from headrace.wire.responses.body import LOGPROBS, HistoryBody, PromptBody, ResponseBody, includes, tools_of
from headrace.wire.responses.tables import HISTORY, PROMPT, RESPONSES


class Given:
    """The members of a body that may be of no effect, found once. Raises BadRequest."""

    def __init__(self, body: HistoryBody) -> None:
        self.members = parameters.Given(body, _table_of(body))
        self.skipped = tuple(_skipped(body))


def judged(given: Given, kind: BackendKind, *, strict: bool = False) -> list[str]:
    """The members of which a backend of this kind makes nothing, and what is skipped of tools and items, with
    its type.

    Raises UnsupportedParameter for a member that would change the output; with `strict`, for one that is
    dropped, and BadRequest for unknown ones.
    """
    return [*parameters.judged(given.members, kind, strict=strict), *given.skipped]


def ignored(given: Given, *, strict: bool = False) -> dict[str, str]:
    """The header X-Headrace-Ignored, if there is anything to name, where no other backend is asked than our
    own. Raises as `judged` does.
    """
    return parameters.with_named({}, judged(given, "engine", strict=strict))


def _table_of(body: HistoryBody) -> Table:
    if isinstance(body, ResponseBody):
        return RESPONSES
    return PROMPT if isinstance(body, PromptBody) else HISTORY


def _skipped(body: HistoryBody) -> Iterator[str]:
    if isinstance(body, PromptBody):
        yield from tools_of(body).skipped
    if isinstance(body, ResponseBody) and body.top_logprobs and not includes(body, LOGPROBS):
        yield "top_logprobs"
    for index, item in enumerate(body.input if isinstance(body.input, list) else ()):
        if isinstance(item, dict):
            yield f"input.{index}:{item['type']}"
        elif _is_sealed_elsewhere(item):
            yield f"input.{index}.encrypted_content"


def _is_sealed_elsewhere(item: object) -> bool:
    if not isinstance(item, ReasoningItem) or not item.encrypted_content:
        return False
    return not thoughts_in(item.encrypted_content)
