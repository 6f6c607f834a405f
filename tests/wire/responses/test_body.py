"""The body of /v1/responses: what it asks for, what is refused, what is named as ignored."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from openai.resources.responses import Responses
from openai.resources.responses.input_tokens import InputTokens

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.features import OWN_ENGINE
from headrace.types import (
    Conversation,
    Format,
    GenerateRequest,
    Message,
    ModelInfo,
    Tool,
    ToolChoice,
)
from headrace.wire.items import to_items
from headrace.wire.parameters import parse, with_named
from headrace.wire.responses.body import (
    CompactBody,
    HistoryBody,
    InputTokensBody,
    ResponseBody,
    check,
    in_endpoint_names,
    to_request,
    to_tokenize_request,
)
from headrace.wire.responses.object import begin
from headrace.wire.responses.tables import COMPACTED, PROMPT, RESPONSES, uses_of_responses

OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
SMALL: dict[str, Any] = {"model": "m", "input": "hi"}
FUNCTION = {"type": "function", "name": "look", "parameters": {"type": "object"}}
CUSTOM = {"type": "custom", "name": "patch", "description": "Takes a patch."}
SEARCH = {"type": "web_search", "search_context_size": "low"}
NAMESPACE = {"type": "namespace", "name": "n", "tools": [FUNCTION]}
SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}


def body_of(**members: Any) -> ResponseBody:
    body = parse(ResponseBody, json.dumps({**SMALL, **members}).encode())
    check(body)
    return body


def ignored(body: HistoryBody, *, strict: bool = False) -> dict[str, str]:
    """The header that names what our own engine makes nothing of."""
    return with_named({}, uses_of_responses(body, strict=strict).left_out(OWN_ENGINE))


def request_of(**members: Any) -> GenerateRequest:
    body = body_of(**members)
    ignored(body)
    return to_request(body, to_items(body.input, "input"))


def prompt_of(**members: Any) -> Conversation:
    prompt = request_of(**members).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def named(**members: Any) -> list[str]:
    header = ignored(body_of(**members)).get("X-Headrace-Ignored")
    return [] if header is None else header.split(", ")


def test_a_small_body() -> None:
    request = request_of()
    assert request.prompt == Conversation((Message("user", "hi"),))
    assert (request.sampling.max_tokens, request.sampling.logprobs, request.format) == (None, None, None)
    assert named() == []


def test_what_is_asked_for() -> None:
    request = request_of(
        instructions="Be brief.", max_output_tokens=9, temperature=0.5, top_p=0.9, seed=3, top_k=5,
        stop=["x"], timeout=2, priority=1, reasoning={"effort": "low"}, parallel_tool_calls=False,
        include=["message.output_text.logprobs"], top_logprobs=2, tools=[FUNCTION],
        text={"format": {"type": "json_object"}},
    )  # fmt: skip
    prompt = request.prompt
    assert isinstance(prompt, Conversation)
    assert prompt.messages == (Message("system", "Be brief."), Message("user", "hi"))
    assert (prompt.reasoning_effort, prompt.parallel_tool_calls) == ("low", False)
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (9, 0.5, 0.9)
    assert (sampling.seed, sampling.top_k, sampling.stop, sampling.logprobs) == (3, 5, ("x",), 2)
    assert (request.timeout_s, request.priority) == (2, 1)
    assert request.format == Format("json_object", param="text.format")


def test_a_schema_is_flat() -> None:
    assert request_of(text={"format": SCHEMA}).format == Format(
        "json_schema", SCHEMA["schema"], "text.format.schema", "x"
    )
    assert request_of(text={"format": {"type": "text"}}).format is None
    assert request_of(guided_regex="a+").format == Format("regex", "a+", "guided_regex")


def test_tools_of_all_kinds() -> None:
    prompt = prompt_of(tools=[SEARCH, FUNCTION, NAMESPACE, CUSTOM])
    look, patch = prompt.tools
    assert look == Tool("look", None, {"type": "object"})
    assert (patch.name, patch.description, patch.strict) == ("patch", "Takes a patch.", True)
    assert patch.parameters is not None
    assert patch.parameters["required"] == ["input"]
    assert named(tools=[SEARCH, FUNCTION, NAMESPACE]) == ["tools.0:web_search", "tools.2:namespace"]


def test_a_grammar_is_described_and_not_forced() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
    tool = {**CUSTOM, "format": grammar}
    (patch,) = prompt_of(tools=[tool]).tools
    assert 'start: "a"' in (patch.description or "")
    assert named(tools=[tool]) == ["tools.0.format"]
    assert named(tools=[{**CUSTOM, "format": {"type": "text"}}]) == []


CHOICES: list[Any] = [
    (None, ToolChoice("auto"), "auto"),
    ("none", ToolChoice("none"), "none"),
    ("required", ToolChoice("required"), "required"),
    ({"type": "function", "name": "look"}, ToolChoice("required", ("look",)), None),
    ({"type": "custom", "name": "patch"}, ToolChoice("required", ("patch",)), None),
    (
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "patch"}]},
        ToolChoice("required", ("patch",)),
        None,
    ),
    (
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
        ToolChoice("auto", ("look",)),
        None,
    ),
    ({"type": "web_search_preview"}, ToolChoice("auto"), "auto"),
    ({"type": "mcp", "server_label": "x"}, ToolChoice("auto"), "auto"),
    (
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
        ToolChoice("none"),
        "none",
    ),
]


@pytest.mark.parametrize(("requested", "choice", "written"), CHOICES)
def test_which_tool_is_to_be_called(requested: Any, choice: ToolChoice, written: Any) -> None:
    members = {"tools": [FUNCTION, CUSTOM, SEARCH], "tool_choice": requested}
    assert prompt_of(**members).tool_choice == choice
    response = begin(body_of(**members), ModelInfo("m", "us", 0, 9, None), id="resp_1", created_at=5)
    assert response["tool_choice"] == (written or requested)
    assert [tool["name"] for tool in response["tools"]] == ["look", "patch"]


def test_a_choice_of_what_is_skipped_is_named() -> None:
    assert named(tools=[SEARCH], tool_choice={"type": "web_search"}) == [
        "tools.0:web_search", "tool_choice:web_search",
    ]  # fmt: skip
    assert named(tools=[SEARCH], tool_choice="required") == ["tools.0:web_search", "tool_choice"]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}
    assert named(tool_choice=allowed) == ["tool_choice.tools.0:mcp"]


IGNORED: list[Any] = [
    ({"user": "me"}, "user"),
    ({"prompt_cache_key": "k"}, "prompt_cache_key"),
    ({"safety_identifier": "s"}, "safety_identifier"),
    ({"max_tool_calls": 3}, "max_tool_calls"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"client_metadata": {}}, "client_metadata"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    (
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        "stream_options.continuous_usage_stats",
    ),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ({"moderation": {"model": "x"}}, "moderation"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"foo": 1}, "foo"),
    ({"input": [{"role": "user", "content": "hi", "foo": 1}]}, "input.0.foo"),
    ({"input": [{"type": "mcp_call", "id": "x"}, {"role": "user", "content": "hi"}]}, "input.0:mcp_call"),
    ({"tools": [{**FUNCTION, "defer_loading": True}]}, "tools.0.defer_loading"),
    (
        {"input": [{"type": "reasoning", "encrypted_content": "theirs"}, {"role": "user", "content": "hi"}]},
        "input.0.encrypted_content",
    ),
    (
        {
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_file", "file_url": "https://a.b/c", "detail": "low"}],
                }
            ]
        },
        "input.0.content.0.detail",
    ),
]


@pytest.mark.parametrize(("members", "name"), IGNORED)
def test_what_changes_nothing_is_named(members: dict[str, Any], name: str) -> None:
    assert named(**members) == [name]


HARMLESS: list[dict[str, Any]] = [
    {"store": False},
    {"stream": True, "stream_options": {"include_obfuscation": False, "include_usage": True}},
    {"include": [], "tools": [], "metadata": {}},
    {"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]},
    {"truncation": "auto"},
    {"text": {"verbosity": "medium"}},
    {"n": 1},
    {"max_tokens": 5, "max_output_tokens": 5},
    {"conversation": {"id": "conv_1"}},
    {"previous_response_id": "resp_1"},
    {"input": [], "conversation": "conv_1"},
    {"metadata": {str(n): "x" * 512 for n in range(16)}},
    {**dict.fromkeys(ResponseBody.model_fields), **SMALL},
]


@pytest.mark.parametrize("members", HARMLESS)
def test_what_clients_send_is_taken(members: dict[str, Any]) -> None:
    assert named(**members) == []


REFUSED: list[Any] = [
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"previous_response_id": "x"}, "previous_response_id"),
    ({"previous_response_id": "resp_"}, "previous_response_id"),
    ({"previous_response_id": "resp_\n"}, "previous_response_id"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"conversation": "x"}, "conversation"),
    ({"conversation": {"id": "resp_1"}}, "conversation"),
    ({"conversation": {}}, "conversation.id"),
    ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True, "store": False}, "background"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": "9"}, "max_output_tokens"),
    ({"max_tokens": 5, "max_output_tokens": 6}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"truncation": "none"}, "truncation"),
    ({"include": ["x"]}, "include"),
    ({"include": "x"}, "include"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ({"metadata": {"a": 5}}, "metadata.a"),
    ({"reasoning": {"effort": "vast"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ({"text": {"format": {**SCHEMA, "name": None}}}, "text.format.name"),
    ({"text": {"format": {**SCHEMA, "schema": 5}}}, "text.format.schema"),
    ({"text": {"format": SCHEMA}, "guided_regex": "a"}, "guided_regex"),
    ({"text": {"verbosity": "wordy"}}, "text.verbosity"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"n": 2}, "n"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"tools": ["x"]}, "tools.0"),
    ({"tools": [{"name": "x"}]}, "tools.0"),
    ({"tools": [{"type": "function"}]}, "tools.0.name"),
    ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools.0.name"),
    ({"tools": [{**FUNCTION, "name": "a b"}]}, "tools.0.name"),
    ({"tools": [{**FUNCTION, "parameters": "x"}]}, "tools.0.parameters"),
    ({"tools": [{**CUSTOM, "format": {"type": "grammar"}}]}, "tools.0.format.syntax"),
    ({"tools": [FUNCTION, SEARCH, {**CUSTOM, "name": "look"}]}, "tools.2.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "some"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "x"}, "tools": [FUNCTION]}, "tool_choice.name"),
    ({"tool_choice": {"type": "custom", "name": "look"}, "tools": [FUNCTION]}, "tool_choice.name"),
    ({"tool_choice": {"type": "function"}, "tools": [FUNCTION]}, "tool_choice.name"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}, "tools": [FUNCTION]}, "tool_choice.tools"),
    (
        {"tool_choice": {"type": "allowed_tools", "tools": [FUNCTION]}, "tools": [FUNCTION]},
        "tool_choice.mode",
    ),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "7"}]}, "input"),
]


@pytest.mark.parametrize(("members", "param"), REFUSED)
def test_what_cannot_be_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        request_of(**members)
    assert refused.value.param == param


def test_the_words_of_refusals() -> None:
    def words(**members: Any) -> str:
        with pytest.raises(BadRequest) as refused:
            body_of(**members)
        return refused.value.message

    assert words(background=True, store=False) == "background can only be used when `store` is true"
    malformed = words(previous_response_id="x")
    assert malformed.startswith(
        "Invalid 'previous_response_id': 'x'. Expected an ID that begins with 'resp_'"
    )
    both = words(conversation="conv_1", previous_response_id="resp_1")
    assert "'conversation'" in both
    assert "'previous_response_id'" in both


def test_strictly_unknown_members_are_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        ignored(body_of(foo=1), strict=True)
    assert refused.value.param == "foo"
    assert ignored(body_of(user="me"), strict=True) == {"X-Headrace-Ignored": "user"}


def test_a_result_finds_its_call_in_what_was_carried_over() -> None:
    body = body_of(input=[{"type": "function_call_output", "call_id": "c", "output": "7"}])
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    prompt = to_request(body, [call, *to_items(body.input, "input")]).prompt
    assert isinstance(prompt, Conversation)
    assert [message.role for message in prompt.messages] == ["assistant", "tool"]


def test_the_response_tells_what_was_asked() -> None:
    body = body_of(
        instructions="Be brief.", max_output_tokens=9, temperature=0, metadata={"a": "b"}, user="me",
        conversation="conv_1", text={"format": SCHEMA}, tools=[{**FUNCTION, "strict": True}], store=False,
        truncation="auto", reasoning={"effort": "low"}, top_logprobs=2,
    )  # fmt: skip
    info = ModelInfo("m", "us", 0, 9, None, sampling={"temperature": 0.6, "top_p": 0.8})
    response = begin(body, info, id="resp_1", created_at=5)
    assert (response["instructions"], response["max_output_tokens"], response["metadata"]) == (
        "Be brief.",
        9,
        {"a": "b"},
    )
    assert (response["temperature"], response["top_p"], response["top_logprobs"]) == (0, 0.8, 2)
    assert (response["conversation"], response["user"], response["store"]) == ({"id": "conv_1"}, "me", False)
    assert response["text"]["format"] == {**SCHEMA, "description": None, "strict": False}
    assert response["tools"] == [{**FUNCTION, "description": None, "strict": True}]
    assert (response["truncation"], response["reasoning"]) == ("auto", {"effort": "low", "summary": None})
    assert "user" not in begin(body_of(), info, id="resp_1", created_at=5)


def test_the_neighbours_of_a_response() -> None:
    counted = parse(InputTokensBody, json.dumps({**SMALL, "tools": [FUNCTION], "instructions": "x"}).encode())
    check(counted)
    prompt = to_tokenize_request(counted, to_items(counted.input, "input")).prompt
    assert isinstance(prompt, Conversation)
    assert [message.role for message in prompt.messages] == ["system", "user"]
    assert len(prompt.tools) == 1
    compact = parse(CompactBody, json.dumps({**SMALL, "prompt_cache_key": "k"}).encode())
    assert ignored(compact) == {"X-Headrace-Ignored": "prompt_cache_key"}
    with pytest.raises(BadRequest):
        check(parse(CompactBody, b'{"model": "m"}'))


@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        ("messages.3.content.0", "input"),
        ("messages", "input"),
        ("max_tokens", "max_output_tokens"),
        ("reasoning_effort", "reasoning.effort"),
        ("logprobs", "top_logprobs"),
        ("tools.1.function.parameters", "tools.2.parameters"),
        ("text.format.schema", "text.format.schema"),
        ("seed", "seed"),
    ],
)
def test_errors_of_backends_are_reported_in_the_words_of_this_endpoint(theirs: str, own: str) -> None:
    body = body_of(tools=[CUSTOM, SEARCH, FUNCTION])
    error = in_endpoint_names(body, UnsupportedParameter(f"{theirs}: no messages here", param=theirs))
    assert (error.param, error.message) == (own, f"{own}: no messages here")
    assert in_endpoint_names(body, BadRequest("no")).param is None


@pytest.mark.parametrize(
    ("table", "body", "create"),
    [
        (RESPONSES, ResponseBody, Responses.create),
        (PROMPT, InputTokensBody, InputTokens.count),
        (COMPACTED, CompactBody, Responses.compact),
    ],
)
def test_the_table_is_whole(table: Any, body: type[HistoryBody], create: Any) -> None:
    known = set(inspect.signature(create).parameters) - OF_THE_CLIENT
    assert len(known) >= 8
    assert known - set(table) == set()
    assert set(body.model_fields) - set(table) == set()
