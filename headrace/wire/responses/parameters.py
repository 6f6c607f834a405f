"""The features that bodies of /v1/responses use."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.features import Feature, Use, Uses
from headrace.wire import parameters
from headrace.wire.items.encrypted_content import thoughts_in
from headrace.wire.items.input_models import ReasoningItem
from headrace.wire.parameters import Table
from headrace.wire.responses.body import LOGPROBS, HistoryBody, PromptBody, ResponseBody, includes, tools_of
from headrace.wire.responses.tables import HISTORY, PROMPT, RESPONSES


def uses_of(body: HistoryBody, *, strict: bool = False) -> Uses:
    """The features that a body uses, and its members without effect. Tools and items that are skipped are
    listed as PATH:TYPE. Raises BadRequest.
    """
    return parameters.uses_of(body, _table_of(body), strict=strict, more=_more(body))


def _table_of(body: HistoryBody) -> Table:
    if isinstance(body, ResponseBody):
        return RESPONSES
    return PROMPT if isinstance(body, PromptBody) else HISTORY


def _more(body: HistoryBody) -> Iterator[Use]:
    if isinstance(body, ResponseBody) and includes(body, LOGPROBS):
        yield Use("include", Feature.LOGPROBS, Feature.LOGPROBS.loss)
    yield from (Use(path, None, "ignored") for path in _skipped(body))


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
