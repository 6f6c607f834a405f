"""The samples of /v1/responses; see samples.py."""

from __future__ import annotations

from typing import Any

from headrace.types import Thought
from headrace.wire.items.build import seal_thoughts
from tests.wire.samples import BOOKKEEPING, GENERATION, IMAGE, JSON_SCHEMA, SCHEMA, USER, Sample, plainly

FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": SCHEMA}
CUSTOM: dict[str, Any] = {"type": "custom", "name": "f"}
GRAMMAR = {"type": "grammar", "syntax": "regex", "definition": "a"}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "c"}
SAID: dict[str, Any] = {"role": "assistant", "content": "yes"}
REASONING: dict[str, Any] = {"type": "reasoning"}
THOUGHT = [{"type": "reasoning_text", "text": "hm"}]
PICTURE: dict[str, Any] = {"type": "input_image", "image_url": IMAGE["url"]}
TEXT: dict[str, Any] = {"type": "output_text", "text": "yes"}
INCLUDED = {"include": ["message.output_text.logprobs"]}
OF_TEXT = {"annotations": [{"type": "url_citation"}], "logprobs": [{"token": "a", "logprob": -1}]}


def sample(before: list[Any], after: list[Any]) -> Sample:
    """Items between what a user says, without and with what is added."""
    return {"input": [USER, *before, USER]}, {"input": [USER, *after, USER]}


def item(before: dict[str, Any], **more: Any) -> Sample:
    return sample([before], [{**before, **more}])


def part(before: dict[str, Any], *, role: str = "user", **more: Any) -> Sample:
    return item({"role": role, "content": [before]}, content=[{**before, **more}])


def result(before: dict[str, Any], **more: Any) -> Sample:
    return sample(
        [CALL, {**OUTPUT, "output": [before]}],
        [CALL, {**OUTPUT, "output": [{**before, **more}]}],
    )


def offering(before: dict[str, Any], **more: Any) -> Sample:
    return {"tools": [before]}, {"tools": [{**before, **more}]}


def formed(**more: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", **JSON_SCHEMA, **more}}}


NOT_HERE = {"response_format.json_schema.description", "prediction"}
RESPONSES: dict[str, Sample] = {
    **{name: sample for name, sample in {**GENERATION, **BOOKKEEPING}.items() if name not in NOT_HERE},
    **plainly(
        input=[USER, SAID, USER], instructions="Be brief.", previous_response_id="resp_1", image={"a": 1},
        conversation="conv_1", tools=[FUNCTION], reasoning={"effort": "low"}, text=formed()["text"],
        best_of=2, system="x", add_special_tokens=True, enable_thinking=False, chat_template_kwargs={"a": 1},
        truncation="auto", personality="friendly", max_output_tokens=7,
        include=["reasoning.encrypted_content"], background=True, client_metadata={"a": "b"},
        access_programs=["a"], max_tool_calls=3, context_management=[{"type": "compaction"}],
        prompt={"id": "p"},
    ),
    "input.name": item(USER, name="ann"),
    "input.phase": item(SAID, phase="commentary"),
    "input.namespace": sample(
        [CALL, {**OUTPUT, "output": "7"}], [{**CALL, "namespace": "n"}, {**OUTPUT, "output": "7"}]
    ),
    "input.content": sample([SAID], [{**REASONING, "content": THOUGHT}, SAID]),
    "input.summary": sample(
        [SAID], [{**REASONING, "summary": [{"type": "summary_text", "text": "hm"}]}, SAID]
    ),
    "input.encrypted_content": sample(
        [{**REASONING, "content": THOUGHT}, SAID],
        [{**REASONING, "content": THOUGHT, "encrypted_content": seal_thoughts([Thought("hm", "s")])}, SAID],
    ),
    "input.content.detail": part(PICTURE, detail="low"),
    "input.output.detail": result(PICTURE, detail="low"),
    **{f"input.content.{name}": part(TEXT, role="assistant", **{name: OF_TEXT[name]}) for name in OF_TEXT},
    **{f"input.output.{name}": result(TEXT, **{name: OF_TEXT[name]}) for name in OF_TEXT},
    "tools.strict": offering(FUNCTION, strict=True),
    "tools.format": offering(CUSTOM, format=GRAMMAR),
    "tools.defer_loading": offering(FUNCTION, defer_loading=True),
    "tools.allowed_callers": offering(FUNCTION, allowed_callers=["direct"]),
    "tools.output_schema": offering(FUNCTION, output_schema=SCHEMA),
    "tools.async": offering(FUNCTION, **{"async": True}),
    "tool_choice": ({"tools": [FUNCTION]}, {"tool_choice": "none"}),
    "parallel_tool_calls": ({"tools": [FUNCTION]}, {"parallel_tool_calls": False}),
    "reasoning.effort": ({}, {"reasoning": {"effort": "low"}}),
    **{
        f"reasoning.{name}": ({"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "low", name: value}})
        for name, value in (
            ("summary", "auto"), ("generate_summary", "auto"), ("context", "current_turn"), ("mode", "pro"),
        )
    },
    "text.format": ({}, formed()),
    "text.format.description": (formed(), formed(description="d")),
    "text.verbosity": ({}, {"text": {"verbosity": "low"}}),
    "top_logprobs": (INCLUDED, {"top_logprobs": 3}),
}  # fmt: skip
