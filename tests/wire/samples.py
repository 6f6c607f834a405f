"""A sample of every parameter: a body's members without it, and what is added. `ALL` has them by endpoint."""

from __future__ import annotations

from typing import Any

from headrace.wire.anthropic.tables import MESSAGES as MESSAGES_TABLE
from headrace.wire.anthropic.tables import NOT_HERE
from headrace.wire.elsewhere import ELSEWHERE

Sample = tuple[dict[str, Any], dict[str, Any]]

USER: dict[str, Any] = {"role": "user", "content": "hi"}
SAID: dict[str, Any] = {"role": "assistant", "content": "yes"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
FUNCTION: dict[str, Any] = {"name": "f", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
PNG = "iVBORw0KGgo="
IMAGE = {"url": f"data:image/png;base64,{PNG}"}
SIGNED = {"type": "thinking", "thinking": "hm"}
JSON_SCHEMA = {"name": "x", "schema": SCHEMA}


def plainly(**members: Any) -> dict[str, Sample]:
    return {name: ({}, {name: value}) for name, value in members.items()}


def spoken(before: dict[str, Any], **more: Any) -> Sample:
    """A message, and what is added to it."""
    return {"messages": [before, USER]}, {"messages": [{**before, **more}, USER]}


def formed(**more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {**JSON_SCHEMA, **more}}}


def _on(name: str) -> Any:
    """A value of a member of other servers that does not switch it off."""
    is_off = ELSEWHERE[name].is_off
    return next(value for value in ("x", 2, True, False, ["x"]) if not is_off(value))


def _switched_on(name: str) -> Sample:
    """With the member that it says something of, which comes second: complaints are about the first."""
    master = ELSEWHERE[name].master
    values = {"repetition_penalty": 1.5, "skip_special_tokens": False}
    more = {} if master is None else {master: values[master] if master in values else _on(master)}
    return {}, {name: _on(name), **more}


FOREIGN: dict[str, Sample] = {name: _switched_on(name) for name in ELSEWHERE}
ALIASED = plainly(
    repeat_penalty=1.5, max_new_tokens=7, n_predict=7, num_predict=7, min_new_tokens=3,
    stop_sequences=["END"], stop_strings="END", ban_eos_token=True, random_seed=3, sampling_seed=3,
    truncate=5, json_schema=SCHEMA, regex="a", ebnf='root ::= "a"', grammar='root ::= "a"',
    grammar_string='root ::= "a"',
)  # fmt: skip
GENERATION: dict[str, Sample] = {
    **FOREIGN,
    **ALIASED,
    **plainly(
        steering={"ops": [{"vector": "calm", "value": 1}]}, profile="calm", probe={"sae": "s", "top_k": 1},
        model="other", stream=True, temperature=0.5, top_p=0.5, n=2, stop=["END"], seed=3,
        frequency_penalty=0.5, presence_penalty=0.5, logit_bias={"5": 1}, user="me", top_k=5, min_p=0.1,
        repetition_penalty=1.5, ignore_eos=True, min_tokens=3, stop_token_ids=[3], skip_special_tokens=False,
        truncate_prompt_tokens=5, priority=3, timeout=9, guided_json=SCHEMA, guided_regex="a",
        guided_choice=["a"], guided_grammar='start: "a"', schema_narrowing=[], allowed_token_ids=[1],
        bad_words=["x"], include_stop_str_in_output=True, length_penalty=2, use_beam_search=True,
        max_tokens=7, detect_loops=True,
    ),
    "structured_outputs": ({}, {"structured_outputs": {"json": SCHEMA}}),
    **{
        f"structured_outputs.{name}": ({}, {"structured_outputs": {name: value}})
        for name, value in {
            "json": SCHEMA, "json_object": True, "regex": "a", "choice": ["a"], "grammar": 'start: "a"',
            "structural_tag": "a",
        }.items()
    },
    **{
        f"structured_outputs.{name}": (
            {"structured_outputs": {"json": SCHEMA}}, {"structured_outputs": {"json": SCHEMA, name: value}},
        )
        for name, value in {"whitespace_pattern": " ", "disable_additional_properties": False}.items()
    },
    "stream_options": ({"stream": True}, {"stream_options": {}}),
    **{
        f"stream_options.{name}": ({"stream": True}, {"stream_options": {name: True}})
        for name in ("include_usage", "continuous_usage_stats", "include_obfuscation")
    },
    "response_format": ({}, formed()),
    "response_format.json_schema.description": (formed(), formed(description="d")),
}  # fmt: skip
BOOKKEEPING = plainly(
    metadata={"a": "b"}, moderation={}, prediction={"type": "content", "content": "x"}, prompt_cache_key="k",
    prompt_cache_options={"mode": "x"}, prompt_cache_retention="24h", safety_identifier="s",
    service_tier="flex", store=True,
)  # fmt: skip
CHAT: dict[str, Sample] = {
    **GENERATION,
    **BOOKKEEPING,
    **plainly(
        messages=[USER, SAID, USER], max_completion_tokens=7, logprobs=True, tools=TOOLS,
        functions=[FUNCTION], reasoning_effort="low", add_generation_prompt=False,
        chat_template_kwargs={"enable_thinking": False}, chat_template="x", echo=True, audio={"voice": "x"},
        modalities=["text", "audio"], verbosity="low", web_search_options={}, conversation="new",
        conversation_id="new", enable_thinking=False, best_of=2, system="x", add_special_tokens=True,
    ),
    "messages.name": spoken(USER, name="ann"),
    "messages.reasoning_content": spoken(SAID, reasoning_content="hm"),
    "messages.reasoning": spoken(SAID, reasoning="hm"),
    "messages.thinking_blocks.signature": spoken(
        {**SAID, "thinking_blocks": [SIGNED]}, thinking_blocks=[{**SIGNED, "signature": "s"}]
    ),
    "messages.thinking_blocks.data": spoken(
        {**SAID, "thinking_blocks": []}, thinking_blocks=[{"type": "redacted_thinking", "data": "d"}]
    ),
    "messages.content.image_url.detail": spoken(
        {"role": "user", "content": [{"type": "image_url", "image_url": IMAGE}]},
        content=[{"type": "image_url", "image_url": {**IMAGE, "detail": "low"}}],
    ),
    "messages.audio": spoken(SAID, audio={"id": "a"}),
    "messages.annotations": spoken(SAID, annotations=[{"type": "url_citation"}]),
    "messages.refusal": spoken(SAID, refusal="no"),
    "top_logprobs": ({"logprobs": True}, {"top_logprobs": 3}),
    "tools.function.strict": (
        {"tools": TOOLS}, {"tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}]},
    ),
    "tool_choice": ({"tools": TOOLS}, {"tool_choice": "none"}),
    "parallel_tool_calls": ({"tools": TOOLS}, {"parallel_tool_calls": False}),
    "functions.strict": ({"functions": [FUNCTION]}, {"functions": [{**FUNCTION, "strict": True}]}),
    "function_call": ({"functions": [FUNCTION]}, {"function_call": "none"}),
    "continue_final_message": ({"messages": [USER, SAID]}, {"continue_final_message": True}),
}  # fmt: skip
COMPLETIONS: dict[str, Sample] = {
    **GENERATION,
    **BOOKKEEPING,
    **plainly(
        prompt="ho", best_of=2, echo=True, logprobs=3, suffix="x", max_completion_tokens=7, tools=TOOLS,
        tool_choice="required", parallel_tool_calls=True, functions=[FUNCTION], function_call={"name": "f"},
        messages=[USER], system="x", add_special_tokens=False, parse_special=True,
    ),
}  # fmt: skip
EMBEDDINGS: dict[str, Sample] = plainly(
    model="other", input="ho", encoding_format="base64", dimensions=4, user="me", pooling="cls",
    normalize=False, truncate_prompt_tokens=-1, timeout=9, add_special_tokens=False, input_type="query",
    prompt_name="query",
)  # fmt: skip
RERANK: dict[str, Sample] = {
    **plainly(
        model="other", query="ho", documents=["ho"], top_n=1, return_documents=False, instruction="Is it?",
        user="me", truncate_prompt_tokens=-1, timeout=9, max_tokens_per_doc=9, max_chunks_per_doc=9,
        rank_fields=["title"],
    ),
    "documents.text": ({}, {"documents": [{"text": "ho"}]}),
}  # fmt: skip

TOOL: dict[str, Any] = {"name": "f", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
TEXT = {"type": "text", "text": "hi"}
MARK = {"cache_control": {"type": "ephemeral"}}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
RESULT = {"type": "tool_result", "tool_use_id": "t"}
DOCUMENT: dict[str, Any] = {"type": "document", "source": {"type": "content", "content": [TEXT]}}
MARKED_DOCUMENT = {"type": "document", "source": {"type": "content", "content": [{**TEXT, **MARK}]}}


def said(role: str, before: list[Any], after: list[Any]) -> Sample:
    """Blocks of one message, without and with what is added."""
    return (
        {"messages": [USER, {"role": role, "content": before}, USER]},
        {"messages": [USER, {"role": role, "content": after}, USER]},
    )


def block(role: str, before: dict[str, Any], **more: Any) -> Sample:
    return said(role, [before], [{**before, **more}])


def tooled(**more: Any) -> Sample:
    return {"tools": [TOOL]}, {"tools": [{**TOOL, **more}]}


def answering(*result: dict[str, Any]) -> list[Any]:
    return [USER, {"role": "assistant", "content": [USE]}, {"role": "user", "content": list(result)}]


MESSAGES: dict[str, Sample] = {
    **{name: ({}, {name: more[name]}) for name, (_, more) in GENERATION.items() if name in MESSAGES_TABLE},
    **{name: sample for name, sample in FOREIGN.items() if name not in NOT_HERE},
    **plainly(best_of=2, logprobs=True, echo=True, add_special_tokens=True, max_completion_tokens=7,
              top_logprobs=2, reasoning_effort="low", enable_thinking=True, chat_template="x",
              chat_template_kwargs={"a": 1}, structured_outputs={"regex": "a"}, skip_special_tokens=False),
    **plainly(
        model="other", stream=True, messages=[USER, SAID, USER], system="Be brief.", max_tokens=7,
        temperature=0.5, top_p=0.5, top_k=5, stop_sequences=["END"], tools=[TOOL],
        thinking={"type": "adaptive"}, output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        metadata={"user_id": "me"}, container="c", context_management={"edits": []}, diagnostics={"a": 1},
        inference_geo="us", service_tier="auto", speed="fast", user_profile_id="u", workspace_id="w",
        mcp_servers=[{"type": "url"}], cache_control={"type": "ephemeral"},
    ),
    "messages.content.signature": block("assistant", SIGNED, signature="s"),
    "messages.content.data": said(
        "assistant", [TEXT], [{"type": "redacted_thinking", "data": "d"}, TEXT]
    ),
    "messages.content.citations": block("assistant", TEXT, citations=[{"type": "char_location"}]),
    "messages.content.context": block("user", DOCUMENT, context="c"),
    "messages.content.caller": block("assistant", USE, caller={"type": "code_execution"}),
    "messages.content.toolset_name": block("assistant", USE, toolset_name="t"),
    "messages.content.transformations": block("user", PICTURE, transformations=[1]),
    "messages.content.cache_control": block("user", TEXT, **MARK),
    "messages.content.content.cache_control": (
        {"messages": answering({**RESULT, "content": [TEXT]})},
        {"messages": answering({**RESULT, "content": [{**TEXT, **MARK}]})},
    ),
    "messages.content.source.content.cache_control": said("user", [DOCUMENT], [MARKED_DOCUMENT]),
    "system.citations": ({"system": [TEXT]}, {"system": [{**TEXT, "citations": [{"a": 1}]}]}),
    "system.cache_control": ({"system": [TEXT]}, {"system": [{**TEXT, **MARK}]}),
    "tools.strict": tooled(strict=True),
    "tools.allowed_callers": tooled(allowed_callers=["direct"]),
    "tools.defer_loading": tooled(defer_loading=True),
    "tools.eager_input_streaming": tooled(eager_input_streaming=True),
    "tools.input_examples": tooled(input_examples=[{}]),
    "tools.cache_control": tooled(**MARK),
    "tool_choice": ({"tools": [TOOL]}, {"tool_choice": {"type": "none"}}),
    "thinking.budget_tokens": (
        {"model": "claude-opus-4-1", "max_tokens": 64_000, "thinking": {"type": "adaptive"}},
        {"thinking": {"type": "enabled", "budget_tokens": 5000}},
    ),
    "tool_choice.disable_parallel_tool_use": (
        {"tools": [TOOL], "tool_choice": {"type": "auto"}},
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    "output_format": ({}, {"output_format": {"type": "json_schema", "schema": SCHEMA}}),
    "output_config.format": (
        {"output_config": {}}, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    "thinking.display": (
        {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive", "display": "omitted"}},
    ),
}  # fmt: skip
