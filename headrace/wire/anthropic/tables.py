"""The parameters of /v1/messages. wire/parameters.py explains the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from headrace.features import Feature as F
from headrace.features import Use, Uses
from headrace.wire.anthropic.blocks import skipped
from headrace.wire.anthropic.request import (
    AnyTool,
    CountTokensBody,
    CustomTool,
    MessagesBody,
    ServerTool,
    ToolChoiceOfMessages,
    goes_on,
    is_free,
)
from headrace.wire.elsewhere import EMPTY, NOTHING, Neutral, equals
from headrace.wire.parameters import Table, foreign, needs, of_server_tools, ours, refused, sent, uses_of
from headrace.wire.tables import BOOKKEEPING, FOREIGN, STEERING, STRICT


def _is_disabled(thinking: BaseModel) -> bool:
    return getattr(thinking, "type", None) != "enabled"


def _has_none(tools: list[AnyTool]) -> bool:
    """Whether all tools are Anthropic's server tools, which are dropped."""
    return not any(isinstance(tool, CustomTool) for tool in tools)


def _is_free_choice(choice: ToolChoiceOfMessages) -> bool:
    return choice.type == "auto"


# where a text may be marked for the cache
CACHED = (
    "", "system.", "tools.",
    "messages.content.", "messages.content.content.", "messages.content.source.content.",
)  # fmt: skip
MARKED = needs(F.PROMPT_CACHE, "Models that run here cache every prompt.")
# members of OpenAI's dialect and its extensions, with the values that change nothing
NOT_HERE: Mapping[str, Neutral] = {
    "n": equals(1), "best_of": equals(1), "frequency_penalty": equals(0), "presence_penalty": equals(0),
    "repetition_penalty": equals(1), "repeat_penalty": equals(1), "min_p": equals(0),
    "logprobs": equals(False), "ignore_eos": equals(False), "ban_eos_token": equals(False),
    "min_tokens": equals(0),
    "min_new_tokens": equals(0), "skip_special_tokens": equals(True), "length_penalty": equals(1),
    "use_beam_search": equals(False), "include_stop_str_in_output": equals(False), "echo": equals(False),
    "response_format": equals({"type": "text"}), "add_special_tokens": equals(False),
    "spaces_between_special_tokens": equals(True), "repeat_last_n": equals(-1),
    "repetition_penalty_range": equals(0, -1), "repetition_context_size": equals(0, -1),
    "penalty_range": equals(0, -1), "top_logprobs": equals(0),
    **dict.fromkeys(
        ("logit_bias", "bad_words", "stop_token_ids", "stop", "stop_strings", "chat_template_kwargs",
         "grammar_string"),
        EMPTY,
    ),
    **dict.fromkeys(
        ("seed", "random_seed", "sampling_seed", "max_completion_tokens", "max_new_tokens", "n_predict",
         "num_predict", "truncate_prompt_tokens", "truncate", "guided_json", "guided_regex", "guided_choice",
         "guided_grammar", "structured_outputs", "json_schema", "regex", "ebnf", "grammar",
         "allowed_token_ids", "reasoning_effort", "enable_thinking", "chat_template"),
        NOTHING,
    ),
}  # fmt: skip
MESSAGES: Table = {
    **FOREIGN,
    **STEERING,
    **{name: refused("Not in this dialect.", is_off) for name, is_off in NOT_HERE.items()},
    "model": ours("An id from `/v1/models`; an unknown one is 404."),
    "stream": ours(),
    "messages": sent(
        "Blocks of type `text`, `image`, `document`, `search_result`, `thinking`, `tool_use`, "
        "`tool_result`; others are dropped. The engine reads text only."),
    "messages.content.signature": needs(F.SIGNED_REASONING, "Only its signer can read it.", equals("")),
    "messages.content.data": needs(F.SIGNED_REASONING, "Only its writer can read it."),
    "messages.content.citations": foreign("Nothing is cited."),
    "messages.content.context": foreign("Not shown to the model."),
    "messages.content.caller": of_server_tools(BOOKKEEPING, equals({"type": "direct"})),
    "messages.content.toolset_name": of_server_tools(BOOKKEEPING),
    "messages.content.transformations": foreign("Images are sent unchanged."),
    "system": sent(),
    "system.citations": foreign("Nothing is cited."),
    "max_tokens": needs(F.MAX_TOKENS, "Clamped to what fits the context."),
    "temperature": needs(F.TEMPERATURE, "0 to 1."),
    "top_p": needs(F.TOP_P),
    "top_k": needs(F.TOP_K),
    "stop_sequences": needs(F.STOP,
        "The answer names the one that was met, if the provider does; Ollama does not.", EMPTY),
    "tools": needs(F.TOOLS, "With an `input_schema`; those that Anthropic itself would run are dropped.",
        _has_none),
    "tools.strict": STRICT,
    "tools.allowed_callers": of_server_tools("The caller runs the tools."),
    "tools.defer_loading": of_server_tools("All tools are sent to the model.", equals(False)),
    "tools.eager_input_streaming": foreign("Arguments stream as they come."),
    "tools.input_examples": foreign("Templates have no place for them."),
    "tool_choice": needs(F.TOOL_CHOICE, "Ollama: `auto` and `none`.", _is_free_choice),
    "tool_choice.disable_parallel_tool_use": needs(F.PARALLEL_TOOL_CALLS, "", equals(False)),
    "thinking": needs(F.REASONING_EFFORT, "As an effort; dropped where the model knows none.",
        loss="dropped"),
    "thinking.budget_tokens": needs(F.THINKING_BUDGET, "The number itself; elsewhere it becomes an effort.",
        is_redundant=_is_disabled),
    "thinking.display": foreign("Thinking is shown as the model writes it."),
    "output_config": sent("`effort` with adaptive thinking; `format`."),
    "output_config.format": needs(F.JSON_SCHEMA),
    "output_format": needs(F.JSON_SCHEMA, "The older name of `output_config.format`."),
    "metadata": needs(F.USER, "`user_id` becomes OpenAI's `user`."),
    "container": of_server_tools("There are no server tools."),
    "context_management": foreign("The history is used as it is."),
    "diagnostics": foreign("Nothing is diagnosed."),
    "inference_geo": foreign("There is one place."),
    "service_tier": foreign("There is only one."),
    "speed": foreign("There is only one.", equals("standard")),
    "user_profile_id": foreign(BOOKKEEPING),
    "workspace_id": foreign(BOOKKEEPING),
    "mcp_servers": of_server_tools("There are no server tools.", equals([])),
    **{f"{place}cache_control": MARKED for place in CACHED},
}  # fmt: skip


def uses_of_messages(body: CountTokensBody, *, strict: bool = False) -> Uses:
    """The features that a body uses, and its members without effect."""
    return uses_of(body, MESSAGES, strict=strict, more=_more(body))


def _more(body: CountTokensBody) -> Iterator[Use]:
    if isinstance(body, MessagesBody):
        yield from body.steered.uses
    if goes_on(body):
        yield Use("messages", F.CONTINUED_MESSAGE, F.CONTINUED_MESSAGE.loss)
    yield from (Use(path, None, "dropped") for path in _dropped(body))


def _dropped(body: CountTokensBody) -> Iterator[str]:
    """Paths of what no backend is sent and no table lists: server tools, their blocks, and an effort without
    adaptive thinking.
    """
    for index, tool in enumerate(body.tools or ()):
        if isinstance(tool, ServerTool):
            yield f"tools.{index}"
    for index, turn in enumerate(body.messages):
        yield from skipped(turn.content, f"messages.{index}.content")
    if body.output_config is not None and body.output_config.effort and not is_free(body.thinking):
        yield "output_config.effort"
