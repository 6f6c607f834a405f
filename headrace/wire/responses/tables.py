"""The parameters of /v1/responses and its neighbours. wire/parameters.py explains the tables."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from headrace.features import Feature as F
from headrace.features import Use, Uses
from headrace.wire.elsewhere import EMPTY, NOTHING, equals
from headrace.wire.items.build import thoughts_in
from headrace.wire.items.input import MessageItem, ReasoningItem
from headrace.wire.parameters import Parameter, Table, ignored, needs, ours, refused, sent, uses_of
from headrace.wire.responses.body import (
    LOGPROBS,
    SEALED,
    HistoryBody,
    PromptBody,
    ResponseBody,
    includes,
    tools_of,
)
from headrace.wire.responses.tools import FunctionTool, TextTool
from headrace.wire.steering import SteeringMembers
from headrace.wire.tables import BOOKKEEPING, CHAT, EXTENSION, GENERATION, STEERING, is_text

NO_HOSTED = "No hosted tools run here."
ONE = "A response is one answer."
OF_CHAT = ("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "service_tier")


def _is_no_message(item: BaseModel) -> bool:
    """Whether an item is a call or its output, whose tool name is sent in another member."""
    return not isinstance(item, MessageItem)


def _is_signed(item: BaseModel) -> bool:
    """Whether an item is signed by a provider, or is no reasoning."""
    return not isinstance(item, ReasoningItem) or any(
        thought.signature or thought.redacted for thought in thoughts_in(item.encrypted_content)
    )


def _has_no_signature(item: BaseModel) -> bool:
    return not isinstance(item, ReasoningItem) or not _is_signed(item)


def _has_no_logprobs(body: BaseModel) -> bool:
    return not (isinstance(body, ResponseBody) and includes(body, LOGPROBS))


def _has_none(tools: list[object]) -> bool:
    """Whether none of the tools runs where the caller is; the others are skipped."""
    return not any(isinstance(tool, FunctionTool | TextTool) for tool in tools)


CLOSELY = CHAT["messages.content.image_url.detail"]
CITED = ignored("Stored; the model reads the text only.", EMPTY)
THOUGHT = needs(
    F.UNSIGNED_REASONING,
    "Of reasoning. Anthropic takes only what it has signed.",
    EMPTY,
    is_redundant=_is_signed,
)
HISTORY: Table = {
    "model": GENERATION["model"],
    "input": sent("A string, or items; those of hosted tools are kept and not shown to the model."),
    "input.name": needs(F.SPEAKER_NAMES, "As in chat.", is_redundant=_is_no_message),
    "input.phase": ignored("Stored; not shown to the model."),
    "input.namespace": ignored("Stored; not shown to the model."),
    "input.content": THOUGHT,
    "input.summary": THOUGHT,
    "input.encrypted_content": needs(F.SIGNED_REASONING,
        "Of reasoning: only who signed it can read it. What was sealed elsewhere is named.",
        is_redundant=_has_no_signature),
    "input.content.detail": CLOSELY,
    "input.output.detail": CLOSELY,
    "input.content.annotations": CITED,
    "input.content.logprobs": CITED,
    "input.output.annotations": CITED,
    "input.output.logprobs": CITED,
    "instructions": sent("A system message of this turn alone."),
    "previous_response_id": ours("Not with `conversation`."),
    **{name: CHAT[name] for name in OF_CHAT},
    "image": ignored("Images are sent unchanged."),
}  # fmt: skip
COMPACTED: Table = {
    **HISTORY, **STEERING,
    "probe": refused("A summary comes without activations.", NOTHING),
}  # fmt: skip
PROMPT: Table = {
    **HISTORY,
    "conversation": ours("An id, or `{id}`: its items come first, this turn is added to it."),
    "tools": needs(F.TOOLS, "Of type `function` and `custom`; others are skipped and named.", _has_none),
    "tools.strict": CHAT["tools.function.strict"],
    "tools.format": Parameter("dropped", "A grammar is described to the model but not enforced.", is_text),
    "tools.defer_loading": ignored("All tools are sent to the model.", equals(False)),
    "tools.allowed_callers": ignored("The caller runs the tools."),
    "tools.output_schema": ignored("Templates have no place for it."),
    "tools.async": ignored("The caller runs the tools.", equals(False)),
    "tool_choice": needs(F.TOOL_CHOICE,
        "`none`, `auto`, `required`, a tool, `allowed_tools`; a skipped one is `auto`.", equals("auto"),
        is_redundant=CHAT["tool_choice"].is_redundant),
    "parallel_tool_calls": CHAT["parallel_tool_calls"],
    "reasoning": sent(),
    "reasoning.effort": CHAT["reasoning_effort"],
    "reasoning.summary": ignored("Reasoning is returned whole."),
    "reasoning.generate_summary": ignored("Reasoning is returned whole."),
    "reasoning.context": ignored("All of it is shown to the model.", equals("auto", "all_turns")),
    "reasoning.mode": ignored("There is only one.", equals("standard")),
    "text": sent(),
    "text.format": needs(F.JSON_SCHEMA, "`text`, `json_object`, `json_schema`: the answer is forced into it.",
        is_text),
    "text.format.description": GENERATION["response_format.json_schema.description"],
    "text.verbosity": CHAT["verbosity"],
    "truncation": ours("`auto` leaves out the oldest turns, `disabled` is a 400."),
    "personality": ignored("Use `instructions`."),
}  # fmt: skip
RESPONSES: Table = {
    **{name: known for name, known in GENERATION.items() if not name.startswith("response_format.")},
    **PROMPT,
    "stream_options.include_usage": ours("Usage is always sent."),
    "stream_options.continuous_usage_stats": ignored("Usage is sent at the end.", equals(False)),
    "max_output_tokens": needs(F.MAX_TOKENS, "Clamped to what fits the context."),
    "max_tokens": needs(F.MAX_TOKENS, f"{EXTENSION} Another name of `max_output_tokens`."),
    "top_logprobs": needs(F.LOGPROBS, f"Up to 20; with `{LOGPROBS}` in `include`.", equals(0),
        is_redundant=_has_no_logprobs),
    "include": ours(f"`{LOGPROBS}` (Anthropic: 400), `{SEALED}`; the rest belongs to hosted tools."),
    "store": ours("Default true."),
    "background": ours("Only with `store`."),
    "metadata": ours("Stored with the response."),
    "safety_identifier": CHAT["safety_identifier"],
    "client_metadata": ignored(BOOKKEEPING),
    "access_programs": ignored(BOOKKEEPING),
    "max_tool_calls": ignored(NO_HOSTED),
    "moderation": CHAT["moderation"],
    "context_management": ignored("Nothing is compacted automatically.", EMPTY),
    "prompt": refused("No prompts are stored here.", NOTHING),
    "n": refused(ONE, equals(1)),
    "best_of": refused(ONE, equals(1)),
    "system": refused("Use `instructions`.", EMPTY),
    "add_special_tokens": CHAT["add_special_tokens"],
    "enable_thinking": refused("Use `reasoning.effort`.", NOTHING),
    "chat_template_kwargs": refused("Use `reasoning.effort`.", EMPTY),
    "response_format": refused("Use `text.format`.", NOTHING),
}  # fmt: skip


def uses_of_responses(body: HistoryBody, *, strict: bool = False) -> Uses:
    """The features that a body uses, and its members without effect. Tools and items that are skipped are
    listed as PATH:TYPE. Raises BadRequest.
    """
    return uses_of(body, _table_of(body), strict=strict, more=_more(body))


def _table_of(body: HistoryBody) -> Table:
    if isinstance(body, ResponseBody):
        return RESPONSES
    return PROMPT if isinstance(body, PromptBody) else COMPACTED


def _more(body: HistoryBody) -> Iterator[Use]:
    if isinstance(body, SteeringMembers):
        yield from body.steered.uses
    if isinstance(body, ResponseBody) and includes(body, LOGPROBS):
        yield Use("include", F.LOGPROBS, F.LOGPROBS.loss)
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
