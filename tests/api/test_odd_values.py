"""Values that JSON allows and few expect: whatever a body or a query holds, the answer is no 5xx, and an
error has its dialect's shape.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.serving import Served, serving

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {
        "model": "fake",
        "messages": [{"role": "system", "content": [{"type": "text", "text": "x"}]}, USER],
        "tools": [TOOL], "tool_choice": "auto", "logit_bias": {"5": 1}, "stop": ["a"], "metadata": {"k": "v"},
        "store": True, "chat_template_kwargs": {"a": 1}, "user": "me", "seed": 1, "max_tokens": 5,
    },
    "/v1/completions": {"model": "fake", "prompt": ["hi"], "suffix": "x", "user": "me"},
    "/v1/embeddings": {"model": "fake", "input": ["hi"], "user": "me"},
    "/v1/responses": {
        "model": "fake", "input": [USER, CALL, {**CALL, "type": "function_call_output", "output": "x"}],
        "instructions": "x", "metadata": {"k": "v"}, "tools": [{"type": "function", "name": "f"}],
        "include": [], "text": {"format": {"type": "text"}}, "reasoning": {"summary": "auto"},
    },
    "/v1/responses/input_tokens": {"model": "fake", "input": [USER]},
    "/v1/responses/compact": {"model": "fake", "input": [USER]},
    "/v1/conversations": {"items": [{"type": "message", **USER}], "metadata": {"k": "v"}},
    "/v1/messages": {
        "model": "fake", "max_tokens": 5, "system": [{"type": "text", "text": "x"}],
        "messages": [USER, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "stop_sequences": ["a"],
        "metadata": {"user_id": "me"},
    },
    "/v1/messages/count_tokens": {"model": "fake", "messages": [USER]},
    "/v1/tokenize": {"model": "fake", "messages": [USER], "chat_template_kwargs": {"a": 1}},
    "/v1/detokenize": {"model": "fake", "tokens": [104, 105]},
}  # fmt: skip

# as JSON text, because Python's own writer would not write all of them
ODD = [
    '"\\ud800"', '"\\udc00\\ud800"', '"a\\u0000b"', '"\\uffff"', '""', '" "', "NaN", "-Infinity", "1e999",
    "-0.0", "1e-400", "9" * 25, "-" + "9" * 400, "9" * 4299, "9" * 5000, "0." + "1" * 5000, "1E+2", "true",
    "null", "[]", "{}", "[null]", '{"":null}', "[" * 150 + "]" * 150, '{"a":' * 190 + "1" + "}" * 190,
    "[" * 300 + "]" * 300, '{"a":1,"a":2}', '{"type":"text"}', '{"type":"\\u0000"}', '{"id":"\\u0000"}',
    '{"\\ud83d\\ude00":1}', '{"\\u0000":"\\u0000"}', '"' + "x" * 20_000 + '"', '"data:image/png;base64,"',
    '"data:;base64,AAAA"', '"[[[["', '"' + "[" * 5000 + '"', '{"$ref":"#"}', "[[]]", '[{"type":"file"}]',
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = str(tmp_path_factory.mktemp("data"))
    config = Config.model_validate({"paths": {"data": data}})
    with serving(create_app(config, [FakeBackend(["Hello"])])) as served:
        yield served


def check(response: Any, sent: str) -> None:
    assert response.status_code < 500, f"{response.text[:300]} to {sent[:500]}"
    if response.status_code >= 400:
        error = response.json()["error"]
        assert isinstance(error["message"], str), sent[:500]
        assert len(response.content) < 5000, sent[:500]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a body has a value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, member in inner:
        yield from places(member, (*path, step))


def replaced(value: Any, path: tuple[Any, ...], odd: str) -> str:
    """As JSON, with the odd text in this place."""
    if not path:
        return odd
    step, *rest = path
    if isinstance(value, dict):
        pairs = (
            f"{json.dumps(name)}:{replaced(member, tuple(rest), odd) if name == step else json.dumps(member)}"
            for name, member in value.items()
        )
        return "{" + ",".join(pairs) + "}"
    entries = (
        replaced(entry, tuple(rest), odd) if index == step else json.dumps(entry)
        for index, entry in enumerate(value)
    )
    return "[" + ",".join(entries) + "]"


MEMBERS = (
    "model", "stream", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p",
    "stop", "seed", "logit_bias", "repetition_penalty", "min_tokens", "stop_token_ids", "priority", "timeout",
    "user", "response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "logprobs",
    "top_logprobs", "store", "metadata", "conversation", "conversation_id", "tool_choice", "functions",
    "function_call", "reasoning_effort", "best_of", "echo", "dimensions", "encoding_format", "instructions",
    "previous_response_id", "background", "include", "truncation", "reasoning", "text", "thinking",
    "output_config", "cache_control", "prompt", "input", "items", "truncate_prompt_tokens", "stream_options",
    "prompt_cache_key", "safety_identifier", "service_tier", "odd\\ud800", "\\u0000", "x" * 300,
)  # fmt: skip


@given(path=st.sampled_from(list(BODIES)), data=st.data())
@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
def test_nothing_odd_in_a_body_is_a_5xx(server: Served, path: str, data: st.DataObject) -> None:
    body, odd = BODIES[path], data.draw(st.sampled_from(ODD))
    if data.draw(st.booleans()):
        sent = replaced(body, data.draw(st.sampled_from(list(places(body)))), odd)
    else:  # one more member, perhaps one that is there already
        sent = json.dumps(body)[:-1] + f',"{data.draw(st.sampled_from(MEMBERS))}":{odd}}}'
    check(server.post(path, content=sent.encode()), sent)


@pytest.mark.parametrize("timeout", ["5", -5, 1e-9, [], True])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages", "/v1/messages/count_tokens", "/v1/responses/input_tokens", "/v1/responses/compact",
        "/v1/tokenize", "/v1/detokenize",
    ],
)  # fmt: skip
def test_a_timeout_is_ignored_where_there_is_none(server: Served, path: str, timeout: object) -> None:
    response = server.post(path, {**BODIES[path], "timeout": timeout})
    assert response.status_code == 200, response.text
    assert "timeout" in response.headers["x-headrace-ignored"].split(", ")


def compaction(text: str) -> dict[str, str]:
    sealed = base64.b64encode(f'{{"headrace":1,{text}}}'.encode()).decode()
    return {"type": "compaction", "encrypted_content": sealed}


@pytest.mark.parametrize(
    ("path", "member", "value", "param"),
    [
        pytest.param(CHAT, "logit_bias", {"1" * 5000: 1}, "logit_bias." + "1" * 100, id="5,000 digits"),
        pytest.param(CHAT, "logit_bias", {"4": 1, "-1": 1}, "logit_bias.-1", id="a negative bias"),
        pytest.param(CHAT, "logit_bias", {"\u0664": 1}, "logit_bias.\u0664", id="a bias of an Arabic four"),
        pytest.param(CHAT, "logit_bias", {"\uff15": 1}, "logit_bias.\uff15", id="a bias of a wide five"),
        pytest.param(CHAT, "logit_bias", {"05": 1, "5": 2}, "logit_bias.05", id="a bias of 05"),
        pytest.param(CHAT, "logit_bias", {"1_0": 1}, "logit_bias.1_0", id="a bias with an underscore"),
        pytest.param(CHAT, "logit_bias", {"+5": 1}, "logit_bias.+5", id="a bias with a sign"),
        pytest.param(CHAT, "logit_bias", {"\u00b2": 1}, "logit_bias.\u00b2", id="a bias of superscript two"),
        pytest.param(CHAT, "guided_json", "[" * 200_000, "guided_json", id="guided_json of 200,000 brackets"),
        pytest.param(CHAT, "guided_json", '"\\ud800"', "guided_json", id="guided_json with half a pair"),
        pytest.param(CHAT, "guided_json", "NaN", "guided_json", id="guided_json that is no number"),
        pytest.param(CHAT, "guided_json", "9" * 5000, "guided_json", id="guided_json of 5,000 digits"),
        pytest.param(CHAT, "repetition_penalty", 1e-40, "repetition_penalty", id="penalty of 1e-40"),
        pytest.param(CHAT, "repetition_penalty", 1e300, "repetition_penalty", id="penalty of 1e300"),
        pytest.param(
            "/v1/responses", "input", [compaction('"summary":"\\ud800"'), USER], "input.0.encrypted_content",
            id="compaction with half a pair",
        ),
        pytest.param(
            "/v1/responses", "input", [compaction('"summary":7'), USER], "input.0.encrypted_content",
            id="compaction of a number",
        ),
        pytest.param(
            "/v1/responses", "input", [compaction('"summary":' + "[" * 5000), USER],
            "input.0.encrypted_content", id="compaction of brackets",
        ),
        pytest.param("/v1/responses", "metadata", {"k" * 65: ""}, "metadata." + "k" * 65, id="a long key"),
        pytest.param("/v1/completions", "prompt", [2**31], "prompt.0", id="a token beyond 31 bits"),
        pytest.param("/v1/detokenize", "tokens", [10**400], "tokens.0", id="a token of 400 digits"),
    ],
)  # fmt: skip
def test_each_of_these_is_a_400_that_names_its_member(
    server: Served, path: str, member: str, value: Any, param: str
) -> None:
    response = server.post(path, {**BODIES[path], member: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    check(response, member)


@pytest.mark.parametrize("count", [17, 1100])
def test_more_filters_than_there_can_be_pairs_are_a_400(server: Served, count: int) -> None:
    query = "&".join(f"metadata[k{index}]=v" for index in range(count))
    response = server.get(f"{CHAT}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "metadata")


@pytest.mark.parametrize(
    "query",
    [
        "metadata[%00]=x", "metadata[a]=%00", "metadata[%ED%A0%80]=x", "metadata[]=", "metadata[[]]=x",
        "after=%00", "after=%ED%A0%80", "after=" + "x" * 9000, "limit=" + "9" * 5000, "limit=%D9%A3",
        "order=%00", "model=%FF", "include[]=%00", "&".join(["limit=1"] * 900), "%5B%5D=&=&&",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/conversations", "/v1/responses/resp_1", "/v1/models"])
def test_nothing_odd_in_a_query_is_a_5xx(server: Served, path: str, query: str) -> None:
    check(server.get(f"{path}?{query}"), query)


@pytest.mark.parametrize("id", ["%00", "%ED%A0%80", "x" * 5000, "..", "%2e%2e", "conv_%00", "%20", "\u0664"])
@pytest.mark.parametrize("path", ["/v1/responses/", f"{CHAT}/", "/v1/conversations/", "/v1/models/"])
def test_no_odd_id_is_a_5xx(server: Served, path: str, id: str) -> None:
    check(server.get(path + id), path + id)


@pytest.mark.parametrize("number", ["%D9%A3", "%EF%BC%95", "1_0", "%2B5", "%205", "5.0", "-0", "1e1"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/conversations?limit={}", "/v1/responses/resp_1?stream=true&starting_after={}",
        "/v1/admin/logs?after={}", "/v1/usage?start_time={}", "/v1/saes/none/features/{}",
    ],
)  # fmt: skip
def test_only_ascii_digits_make_a_whole_number(server: Served, path: str, number: str) -> None:
    response = server.get(path.format(number))
    name = "feature" if "saes" in path else path.rpartition("?")[2].rpartition("&")[2].partition("=")[0]
    assert (response.status_code, response.json()["error"]["param"]) == (400, name), response.text
