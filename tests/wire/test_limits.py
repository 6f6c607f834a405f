"""Every list and mapping of every body has a limit, and stops at its first fault; what a body holds is
counted as a parser would find it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from headrace import base64_text
from headrace.errors import BadRequest
from headrace.wire import limits, media
from headrace.wire.anthropic.request import CountTokensBody, MessagesBody
from headrace.wire.chat import ChatBody
from headrace.wire.completions import CompletionBody
from headrace.wire.conversations import ConversationBody, ItemsBody, MetadataBody
from headrace.wire.embeddings import EmbeddingsBody
from headrace.wire.limits import Volume, checked_volume
from headrace.wire.ollama.models import CopyBody, CreateBody, NameBody, PullBody, ShowBody
from headrace.wire.ollama.request import EmbedBody, OllamaChatBody, OllamaEmbeddingsBody, OllamaGenerateBody
from headrace.wire.parameters import parse
from headrace.wire.responses.body import CompactBody, InputTokensBody, ResponseBody
from headrace.wire.tokens import DetokenizeBody, TokenizeBody

BODIES: tuple[type[BaseModel], ...] = (
    ChatBody, CompletionBody, EmbeddingsBody, ResponseBody, InputTokensBody, CompactBody, MessagesBody,
    CountTokensBody, ConversationBody, ItemsBody, MetadataBody, TokenizeBody, DetokenizeBody,
    OllamaChatBody, OllamaGenerateBody, EmbedBody, OllamaEmbeddingsBody, NameBody, ShowBody, PullBody,
    CopyBody, CreateBody,
)  # fmt: skip


def schemas(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value
        for member in value.values():
            yield from schemas(member)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from schemas(entry)


@pytest.mark.parametrize("kind", BODIES)
def test_each_list_has_a_limit_and_no_mapping_complains_of_each_of_its_values(kind: type[BaseModel]) -> None:
    for schema in schemas(kind.__pydantic_core_schema__):
        if schema["type"] == "list":
            assert schema.get("fail_fast"), schema
            assert 0 < schema["max_length"] <= limits.MAX_VALUES, schema
        if schema["type"] == "dict":
            assert schema.get("values_schema", {"type": "any"})["type"] == "any", schema


def test_the_documented_limits_are_the_real_ones() -> None:
    text = Path("docs/limits.md").read_text()
    numbers = {int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", text)}
    named = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}
    assert {name for name, value in named.items() if value not in numbers} == set()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


def counts(value: object) -> tuple[int, int, int]:
    """Values (an empty list or object counts twice), members, objects and lists."""
    if not isinstance(value, dict | list):
        return 1, 0, 0
    inner = [counts(entry) for entry in (value.values() if isinstance(value, dict) else value)] or [(1, 0, 0)]
    values, members, containers = (sum(column) for column in zip(*inner, strict=True))
    return values + 1, members + (len(value) if isinstance(value, dict) else 0), containers + 1


@given(JSON, st.integers(1, 50), st.booleans())
def test_what_is_counted_is_what_is_there_wherever_the_slices_end(
    value: Any, size: int, is_escaped: bool
) -> None:
    raw = json.dumps(value, ensure_ascii=is_escaped).encode()
    volume = Volume()
    for start in range(0, len(raw), size):
        volume.add(raw[start : start + size])
    assert (volume.values, volume.members, volume.containers) == counts(value)


@pytest.mark.parametrize("backslashes", range(9))
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_backslashes_before_a_quote_are_distinguished(backslashes: int, size: int) -> None:
    inside = "\\" * backslashes + '"[[[,{'
    raw = json.dumps([inside, [1, 2]]).encode()
    volume = Volume()
    for start in range(0, len(raw), size):
        volume.add(raw[start : start + size])
    assert (volume.values, volume.containers) == (5, 2)


USER = '{"role":"user","content":"x"}'


@pytest.mark.parametrize(
    ("before", "entry", "count", "after", "param"),
    [
        pytest.param('{"messages":[', "{}", 400_000, "]}", "messages", id="400,000 empty messages"),
        pytest.param(
            f'{{"messages":[{USER}],"chat_template_kwargs":{{"a":[',
            "{}",
            4_000_000,
            "]}}",
            "chat_template_kwargs",
            id="chat_template_kwargs of 4 million {}",
        ),
        pytest.param('{"input":[', "7", 5_000_000, "]}", "input", id="5 million token ids"),
        pytest.param('{"a":{', '"x":1', 500_000, "}}", "a", id="half a million members"),
        pytest.param('{"a":[', "9" * 4000, 3000, "]}", "a", id="numbers of 4,000 digits"),
        pytest.param("[", "[]", 50_000, "]", "body", id="no object"),
        pytest.param('{"model":"\\"[","b":[', "[1]", 50_000, "]}", "b", id="after an escaped quote"),
    ],
)
def test_too_much_of_anything_is_refused_before_it_is_parsed(
    before: str, entry: str, count: int, after: str, param: str
) -> None:
    raw = (before + ",".join([entry] * count) + after).encode()
    with pytest.raises(BadRequest) as raised:
        checked_volume(raw)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'"' + b"[{,:" * 1_000_000 + b'"', id="punctuation in a text"),
        pytest.param(b'["' + b'\\"' * 3_000_000 + b'"]', id="escaped quotes"),
        pytest.param(b'["' + b"\\\\" * 3_000_000 + b'"]', id="backslashes"),
        pytest.param(b'{"prompt":[' + b",".join([b"49151"] * 100_000) + b"]}", id="100k-token prompt"),
        pytest.param(
            json.dumps({"input": [[151_000] * 128] * 2048}).encode(), id="2,048 inputs of token ids"
        ),
        pytest.param(
            b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;'
            b"base64," + b"iVBORw0K" * 1_500_000 + b'"}}]}]}', id="an image of 12 MB",
        ),
    ],
)  # fmt: skip
def test_large_bodies_that_mean_well_are_let_through(raw: bytes) -> None:
    checked_volume(raw)


CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
LONG = "x" * 10**6


@pytest.mark.parametrize(
    ("kind", "members", "param"),
    [
        (ChatBody, {"messages": [{"role": "user", "content": "x"}] * 10_001}, "messages"),
        (ChatBody, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2001}]},
         "messages.0.content"),
        (ChatBody, {"tools": [{"type": "function", "function": {"name": "f"}}] * 1001}, "tools"),
        (ChatBody, {"stop": ["a"] * 5}, "stop"),
        (ChatBody, {"stop": LONG}, "stop"),
        (ChatBody, {"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        (ChatBody, {"logit_bias": {str(i): 1 for i in range(10_001)}}, "logit_bias"),
        (ChatBody, {"logit_bias": {"5": "x", "6": "y"}}, "logit_bias.5"),
        (ChatBody, {"logit_bias": {"1" * 5000: 1}}, "logit_bias." + "1" * 100),
        (ChatBody, {"logit_bias": {"5": True}}, "logit_bias.5"),
        (ChatBody, {"logit_bias": {"5": 101}}, "logit_bias.5"),
        (ChatBody, {"guided_choice": ["a"] * 10_001}, "guided_choice"),
        (ChatBody, {"chat_template_kwargs": {str(i): 1 for i in range(129)}}, "chat_template_kwargs"),
        (ChatBody, {"chat_template_kwargs": {"a": [[1] * 5000, {"b": [2] * 5000}]}}, "chat_template_kwargs"),
        (ChatBody, {"repetition_penalty": 1e-40}, "repetition_penalty"),
        (ChatBody, {"repetition_penalty": 1e40}, "repetition_penalty"),
        (ResponseBody, {"input": [{"role": "user", "content": "x"}] * 10_001}, "input"),
        (ResponseBody, {"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        (ResponseBody, {"metadata": {"k": 1}}, "metadata.k"),
        (ResponseBody, {"metadata": {LONG: ""}}, "metadata." + "x" * 100),
        (ResponseBody, {"include": ["x"] * 101}, "include"),
        (MessagesBody, {"max_tokens": 1, "stop_sequences": ["a"] * 65}, "stop_sequences"),
        (MessagesBody, {"max_tokens": 1, "tools": [{"type": "x" * 10_000, "name": 5}] * 1001}, "tools"),
        (TokenizeBody, {"messages": [{"role": "user", "content": "x"}] * 10_001}, "messages"),
        (TokenizeBody, {"chat_template_kwargs": {str(i): 1 for i in range(129)}}, "chat_template_kwargs"),
        (CompletionBody, {"prompt": ["x"] * 1025}, "prompt"),
        (EmbeddingsBody, {"input": ["x"] * 2049}, "input"),
        (EmbedBody, {"input": ["x"] * 2049}, "input"),
        (OllamaChatBody, {"options": {"stop": ["a"] * 65}}, "options.stop"),
        (OllamaGenerateBody, {"images": ["x"] * 2001}, "images"),
    ],
)  # fmt: skip
def test_each_limit_is_a_400_that_names_its_member(
    kind: type[BaseModel], members: dict[str, Any], param: str
) -> None:
    body = {**CHAT, **members} if kind in (ChatBody, MessagesBody) else {"model": "m", **members}
    with pytest.raises(BadRequest) as raised:
        parse(kind, json.dumps(body).encode())
    assert raised.value.param == param
    assert len(raised.value.message) < 1000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatBody, {**CHAT, "model": 1, LONG: 1}),
        (ChatBody, {**CHAT, "messages": [{"role": LONG, "content": "x"}]}),
        (ChatBody, {**CHAT, "messages": [{"role": "user", "content": [{"type": LONG}]}]}),
        (ChatBody, {**CHAT, "tool_choice": LONG}),
        (ChatBody, {**CHAT, "tools": [{"type": "function", "function": {"name": LONG}}]}),
        (ResponseBody, {"model": "m", "input": [{"type": LONG}]}),
        (ResponseBody, {"model": "m", "input": "x", "truncation": LONG}),
        (MessagesBody, {**CHAT, "max_tokens": 1, "thinking": {"type": LONG}}),
        (EmbeddingsBody, {"model": "m", "input": "x", "encoding_format": LONG}),
    ],
)
def test_no_error_repeats_a_megabyte(kind: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as raised:
        parse(kind, json.dumps(body).encode())
    assert len(raised.value.message) <= 2000
    assert len(raised.value.param or "") <= 300


@pytest.mark.parametrize(
    ("data", "is_right"),
    [
        ("QUJD" * (base64_text.STEP // 4), True),
        ("QUJD" * base64_text.STEP + "QQ==", True),
        ("QUJD" * (base64_text.STEP // 4) + "QQ==" + "QUJD" * 4, False),
        ("QUJD" * (base64_text.STEP // 4 - 1) + "QQ==" + "QUJD", False),
        ("QUJD" * base64_text.STEP + "Q", False),
        ("QUJD" * base64_text.STEP + "QU\n=", False),
        ("QUJD" * (base64_text.STEP // 4) + "éééé", False),
        ("", False),
        ("====", False),
    ],
    ids=[str(number) for number in range(9)],
)
def test_long_base64_is_checked_as_short_is(data: str, is_right: bool) -> None:
    if is_right:
        assert media.check_base64(data, "x") == data
    else:
        with pytest.raises(BadRequest):
            media.check_base64(data, "x")
