"""Stored chat completions: the answer as it was given, the messages as they were sent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import EngineFailed
from headrace.types import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from tests.conftest import FakeServer
from tests.serving import Served, events, eventually

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "store": True}
TOOL = {"type": "function", "function": {"name": "f"}}
RICH: list[str | Event] = [
    ReasoningDelta(0, "hm"),
    TextDelta(0, "Let me", (TokenLogprob("Let me", b"Let me", -0.5),)),
    TextDelta(0, " see.", (TokenLogprob(" see.", b" see.", -0.25),)),
    ToolCallDelta(0, 0, "", "call_1", "f"),
    ToolCallDelta(0, 0, '{"a": '),
    ToolCallDelta(0, 0, "1}"),
    Finished(0, "tool_calls", Usage(7, 9, 3, 2)),
]


@pytest.fixture
def stored(fake_server: FakeServer, database_url: str) -> Served:
    keys = {"server": {"api_keys": ("first-key", "second-key")}}
    return fake_server(config=Config.model_validate({**keys, "store": {"url": database_url}}))


@pytest.fixture
def client(stored: Served) -> Iterator[openai.OpenAI]:
    with stored.client("first-key", is_strict=True) as client:
        yield client


def complete(client: openai.OpenAI, text: str = "hi", **members: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="fake", messages=messages, store=True, **members)


def test_what_only_its_provider_writes_is_stored_too(fake_server: FakeServer) -> None:
    end = Finished(0, "stop", Usage(7, 1), own={"citations": ["https://a.example"]})
    server = fake_server(FakeBackend(["yes", end]))
    answered = server.post(CHAT, HI).json()
    assert answered["citations"] == ["https://a.example"]
    assert server.get(f"{CHAT}/{answered['id']}").json() == {**answered, "metadata": {}}


def test_stored_completion_lives_as_the_official_client_expects(client: openai.OpenAI) -> None:
    made = complete(client, metadata={"run": "1"})
    found = client.chat.completions.retrieve(made.id)
    assert found.metadata == {"run": "1"}
    assert found.model_dump(exclude={"metadata"}) == made.model_dump(exclude={"metadata"})
    changed = client.chat.completions.update(made.id, metadata={"run": "2"})
    assert changed.metadata == {"run": "2"}
    assert client.chat.completions.retrieve(made.id) == changed
    gone = client.chat.completions.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "chat.completion.deleted", True)
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.retrieve(made.id)
    assert caught.value.code == "completion_not_found"


def test_unknown_members_of_a_change_are_named(fake_server: FakeServer) -> None:
    server = fake_server()
    path = f"{CHAT}/{server.post(CHAT, HI).json()['id']}"
    answered = server.post(path, {"metadata": {"a": "b"}, "mood": "good"})
    assert (answered.status_code, answered.headers["x-headrace-ignored"]) == (200, "mood")
    strict = server.post(path, {"metadata": {}, "mood": "good"}, headers={"X-Headrace-Strict": "true"})
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "mood")
    assert server.get(path).json()["metadata"] == {"a": "b"}


def test_list_is_filtered_and_goes_page_by_page(client: openai.OpenAI) -> None:
    ids = [complete(client, metadata={"run": str(n % 2), "all": "x"}).id for n in range(5)]
    completions = client.chat.completions
    assert [entry.id for entry in completions.list(limit=2)] == ids
    assert [entry.id for entry in completions.list(order="desc", limit=1)] == ids[::-1]
    assert [entry.id for entry in completions.list(metadata={"run": "0", "all": "x"}, limit=1)] == ids[::2]
    assert [entry.id for entry in completions.list(model="fake", after=ids[3])] == ids[4:]
    assert list(completions.list(model="another")) == []
    assert list(completions.list(metadata={"run": "9"})) == []


def test_another_key_sees_nothing(stored: Served, client: openai.OpenAI) -> None:
    id = complete(client).id
    with stored.client("second-key") as other:
        assert list(other.chat.completions.list()) == []
        for attempt in (
            lambda: other.chat.completions.retrieve(id),
            lambda: other.chat.completions.update(id, metadata={}),
            lambda: other.chat.completions.delete(id),
            lambda: other.chat.completions.messages.list(id),
        ):
            with pytest.raises(openai.NotFoundError):
                attempt()


def test_messages_are_those_that_were_sent(stored: Served) -> None:
    """Not strictly: the client's own type says that every one of them is an assistant's."""
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "Ada"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]
    with stored.client("first-key") as client:
        id = client.chat.completions.create(model="fake", messages=sent, store=True).id
        listed = [message.to_dict() for message in client.chat.completions.messages.list(id, limit=1)]
        assert [message.id for message in client.chat.completions.messages.list(id, order="desc")] == [
            message["id"] for message in reversed(listed)
        ]
    expected = [{**message, "refusal": None, "content_parts": None} for message in sent]
    expected[1] = {**expected[1], "content": "What is this?", "content_parts": parts}
    assert [{name: value for name, value in m.items() if name != "id"} for m in listed] == expected
    assert len({message["id"] for message in listed}) == 4


def fold(chunks: list[Any]) -> dict[str, Any]:
    """A stream's choice, as a client puts it together."""
    content, reasoning, arguments = "", "", ""
    logprobs: list[Any] = []
    reason, name, call_id = None, None, None
    for chunk in chunks:
        [choice] = chunk["choices"]
        delta, reason = choice["delta"], choice["finish_reason"] or reason
        content, reasoning = content + (delta.get("content") or ""), reasoning + delta.get("reasoning", "")
        logprobs += (choice["logprobs"] or {"content": []})["content"]
        for call in delta.get("tool_calls", []):
            name, call_id = call["function"].get("name", name), call.get("id", call_id)
            arguments += call["function"]["arguments"]
    function = {"name": name, "arguments": arguments}
    calls = [{"id": call_id, "type": "function", "function": function}]
    message = {"content": content, "reasoning": reasoning, "tool_calls": calls}
    return {"message": message, "logprobs": logprobs, "finish_reason": reason}


def test_stored_stream_is_what_was_streamed(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(RICH))
    request = {**HI, "tools": [TOOL], "logprobs": True}
    *chunks, done = events(server.post(CHAT, {**request, "stream": True}))
    assert done == "[DONE]"
    [found] = server.get(CHAT).json()["data"]
    for member in ("id", "created", "model", "system_fingerprint"):
        assert {chunk[member] for chunk in chunks} == {found[member]}
    streamed, [choice] = fold(chunks), found["choices"]
    assert {name: choice["message"][name] for name in streamed["message"]} == streamed["message"]
    assert (choice["logprobs"]["content"], choice["finish_reason"]) == (streamed["logprobs"], "tool_calls")
    assert found["usage"]["total_tokens"] == 16
    whole = server.post(CHAT, request).json()
    assert server.get(f"{CHAT}/{whole['id']}").json() == {**whole, "metadata": {}}
    assert whole["choices"] == found["choices"]


def test_every_choice_is_stored(fake_server: FakeServer) -> None:
    server = fake_server()
    whole = server.post(CHAT, {**HI, "n": 3}).json()
    assert len(whole["choices"]) == 3
    assert server.get(f"{CHAT}/{whole['id']}").json()["choices"] == whole["choices"]


def test_stored_before_the_last_byte(fake_server: FakeServer) -> None:
    server = fake_server()
    with server.http.stream("POST", CHAT, json={**HI, "stream": True}) as response:
        lines = response.iter_lines()
        assert any(line == "data: [DONE]" for line in lines)
        assert len(server.get(CHAT).json()["data"]) == 1


def test_only_whole_answers_that_asked_for_it_are_stored(fake_server: FakeServer) -> None:
    backend = FakeBackend(["Hello"], error=EngineFailed("broken"))
    server = fake_server(backend)
    assert server.post(CHAT, HI).status_code == 500
    assert events(server.post(CHAT, {**HI, "stream": True}))[-2]["error"]["code"] == "engine_failed"
    backend.error, backend.script, backend.delay_s = None, ["tick "] * 1000, 0.02
    with server.http.stream("POST", CHAT, json={**HI, "stream": True}) as response:
        chunks = response.iter_bytes()  # held: httpx2 hangs up when its iterator is dropped
        next(chunks)
    eventually(lambda: not server.gateway.num_active)
    backend.script = ["Hello"]
    assert server.post(CHAT, {**HI, "store": False}).status_code == 200
    assert server.get(CHAT).json() == {
        "object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False,
    }  # fmt: skip


def test_store_of_a_provider_by_its_path(fake_server: FakeServer) -> None:
    server = fake_server()
    id = server.post("/fake/v1/chat/completions", HI).json()["id"]
    assert server.get(f"{CHAT}/{id}").status_code == 200


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"store": "yes"}, "store"),
    ],
)
def test_faults_are_named_before_anything_is_generated(
    fake_server: FakeServer, members: dict[str, Any], param: str
) -> None:
    backend = FakeBackend(["Hello"])
    response = fake_server(backend).post(CHAT, {**HI, **members})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert backend.requests == []


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("order=x", "order"), ("after=chatcmpl-x", "after"), ("model=%00", "model")],
)
def test_faults_in_a_query_are_named(fake_server: FakeServer, query: str, param: str) -> None:
    response = fake_server().get(f"{CHAT}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_without_a_database_nothing_is_generated_that_should_be_kept(fake_server: FakeServer) -> None:
    backend = FakeBackend(["Hello"])
    config = Config.model_validate({"store": {"url": "postgresql://nobody@127.0.0.1:1/none"}})
    server = fake_server(backend, config=config)
    named = {**HI, "store": False, "conversation": "new"}
    for response in (server.post(CHAT, HI), server.post(CHAT, named), server.get(CHAT)):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "store_unavailable"
        assert int(response.headers["retry-after"]) > 0
    assert backend.requests == []
    assert server.post(CHAT, {**HI, "store": False}).status_code == 200


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "00", "\u0663"])
def test_l22_a_fault_in_limit_names_the_bounds_that_hold(fake_server: FakeServer, limit: str) -> None:
    server = fake_server()
    for path in (CHAT, f"{CHAT}/x/messages"):  # OpenAI names no maximum: longer pages are cut
        message = server.get(f"{path}?limit={limit}").json()["error"]["message"]
        assert message == f"Invalid 'limit': {limit!r}. Expected a whole number of at least 1."
    message = server.get(f"/v1/conversations/conv_x/items?limit={limit}").json()["error"]["message"]
    assert message == f"Invalid 'limit': {limit!r}. Expected a whole number from 1 to 100."


@pytest.mark.parametrize("limit", [101, 1000, 10**15, "9" * 5000])
def test_l22_a_page_that_is_too_long_is_cut(fake_server: FakeServer, limit: int | str) -> None:
    server = fake_server()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: server.post(CHAT, HI).json()["id"], range(102)))
    page = server.get(f"{CHAT}?limit={limit}").json()
    assert (len(page["data"]), page["has_more"]) == (100, True)
    rest = server.get(f"{CHAT}?limit={limit}&after={page['last_id']}").json()
    assert (len(rest["data"]), rest["has_more"]) == (2, False)
    assert {entry["id"] for entry in [*page["data"], *rest["data"]]} == set(made)
    messages = server.get(f"{CHAT}/{made[0]}/messages?limit={limit}").json()
    assert (len(messages["data"]), messages["has_more"]) == (1, False)
