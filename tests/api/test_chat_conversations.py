"""Chats with a named conversation: what the model reads, and what is kept when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import EngineFailed
from headrace.types import Event, Finished, GenerateRequest, ReasoningDelta, ToolCallDelta, Usage
from tests.api.responses_client import said as read
from tests.conftest import FakeServer
from tests.postgres import postgresql
from tests.serving import Served, eventually

CHAT, CONVERSATIONS = "/v1/chat/completions", "/v1/conversations"
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "f"}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def body(*messages: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": messages, **members}


def ask(server: Served, id: str, *messages: dict[str, Any], path: str = CHAT, **members: Any) -> str:
    """Send one turn, and return the id of its conversation."""
    response = server.post(path, body(*messages, **members), headers={"X-Conversation-ID": id})
    assert response.status_code == 200, response.text
    assert "x-headrace-persisted" not in response.headers
    conversation_id: str = response.headers["x-conversation-id"]
    return conversation_id


def new(server: Served, *items: dict[str, Any]) -> str:
    id: str = server.post(CONVERSATIONS, {"items": items}).json()["id"]
    return id


def items_of(server: Served, id: str) -> list[dict[str, Any]]:
    export = server.get(f"{CONVERSATIONS}/{id}/export").json()
    found: list[dict[str, Any]] = export["items"]
    return found


def texts(server: Served, id: str) -> list[str]:
    """What is stored, as lines."""
    return [
        f"{item['role']}: {item['content'][0]['text']}" if item["type"] == "message" else item["type"]
        for item in items_of(server, id)
    ]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(["Hello"])


@pytest.fixture
def server(fake_server: FakeServer, backend: FakeBackend) -> Served:
    return fake_server(backend)


@pytest.mark.parametrize("stream", [False, True])
def test_model_reads_what_was_said_before(
    fake_server: FakeServer, backend: FakeBackend, database_url: str, stream: bool
) -> None:
    server = fake_server(backend, config=Config.model_validate({"store": {"url": database_url}}))
    id = ask(server, "new", SYSTEM, user("one"), stream=stream)
    assert id.startswith("conv_")
    assert ask(server, id, user("two"), stream=stream) == id
    assert read(backend) == [
        ("system", "Be brief."), ("user", "one"), ("assistant", "Hello"), ("user", "two"),
    ]  # fmt: skip
    assert texts(server, id) == [
        "system: Be brief.", "user: one", "assistant: Hello", "user: two", "assistant: Hello",
    ]  # fmt: skip
    assert {item["status"] for item in items_of(server, id)} == {"completed"}


def test_official_client_goes_on_with_a_conversation(server: Served, backend: FakeBackend) -> None:
    with server.client(is_strict=True) as client:
        id = client.conversations.create(items=[{"role": "user", "content": "I am Ada."}]).id
        messages: list[Any] = [user("Who am I?")]
        for named in (id, {"id": id}):
            client.chat.completions.create(
                model="fake", messages=messages, extra_body={"conversation": named}
            )
        headers = {"X-Conversation-ID": id}
        for _ in client.chat.completions.create(
            model="fake", messages=messages, stream=True, extra_headers=headers
        ):
            pass
        assert len(list(client.conversations.items.list(id))) == 7
    assert read(backend)[0] == ("user", "I am Ada.")


def test_history_that_is_sent_again_is_stored_once(server: Served, backend: FakeBackend) -> None:
    id = ask(server, "new", SYSTEM, user("one"))
    history = [SYSTEM, user("one"), assistant("Hello"), user("two")]
    ask(server, id, *history)
    assert [text for _, text in read(backend)] == ["Be brief.", "one", "Hello", "two"]
    ask(server, id, *history, assistant("Hello"), user("three"))
    ask(server, id, *history[3:], assistant("Hello"), user("three"), assistant("Hello"), user("four"))
    assert [line for line in texts(server, id) if line != "assistant: Hello"] == [
        "system: Be brief.", "user: one", "user: two", "user: three", "user: four",
    ]  # fmt: skip
    assert [text for _, text in read(backend)][-3:] == ["three", "Hello", "four"]


def test_another_system_message_joins_the_first(server: Served, backend: FakeBackend) -> None:
    id = ask(server, "new", SYSTEM, user("one"))
    other = {"role": "developer", "content": "Be kind."}
    ask(server, id, other, user("two"))
    assert read(backend)[:3] == [("system", "Be brief."), ("developer", "Be kind."), ("user", "one")]
    ask(server, id, SYSTEM, other, user("three"))
    assert read(backend)[:3] == [("system", "Be brief."), ("developer", "Be kind."), ("user", "one")]
    assert sum("Be" in line for line in texts(server, id)) == 2


def test_model_reads_the_system_message_and_twenty_more(server: Served, backend: FakeBackend) -> None:
    id = ask(server, "new", SYSTEM, user("0"))
    for number in range(1, 12):
        ask(server, id, user(str(number)))
    ask(server, id, user("last"))
    seen = read(backend)
    assert (seen[0], seen[1], seen[-1]) == (("system", "Be brief."), ("user", "2"), ("user", "last"))
    assert len(seen) == 1 + 20 + 1
    assert len(items_of(server, id)) == 1 + 2 * 13


def test_window_is_configured(fake_server: FakeServer, backend: FakeBackend) -> None:
    server = fake_server(backend, config=Config.model_validate({"conversations": {"context_messages": 2}}))
    id = ask(server, "new", user("one"))
    ask(server, id, user("two"))
    ask(server, id, user("three"))
    assert [text for _, text in read(backend)] == ["two", "Hello", "three"]


def test_long_history_that_is_sent_again_is_recognised_beyond_the_window(
    fake_server: FakeServer, backend: FakeBackend
) -> None:
    server = fake_server(backend, config=Config.model_validate({"conversations": {"context_messages": 1}}))
    id, history = new(server), []
    for number in range(8):
        history.append(user(str(number)))
        ask(server, id, *history)
        history.append(assistant("Hello"))
    assert len(items_of(server, id)) == 16


def test_window_is_of_messages_however_many_items_they_are(
    fake_server: FakeServer, backend: FakeBackend
) -> None:
    server = fake_server(backend, config=Config.model_validate({"conversations": {"context_messages": 2}}))
    calls = [
        {"type": "function_call", "call_id": f"call_{number}", "name": "f", "arguments": "{}"}
        for number in range(15)
    ]
    ask(server, new(server, user("one"), *calls), user("two"))
    assert read(backend) == [("user", "one"), ("user", "two")]


def test_answer_that_was_cut_short_is_incomplete(server: Served, backend: FakeBackend) -> None:
    backend.script = ["Hel", Finished(0, "length", Usage(1, 1))]
    assert items_of(server, ask(server, "new", user("one")))[-1]["status"] == "incomplete"


CALLS: list[str | Event] = [
    ReasoningDelta(0, "I should call."),
    ToolCallDelta(0, 0, "{}", "call_1", "f"),
    ToolCallDelta(0, 1, "{}", "call_2", "f"),
    Finished(0, "tool_calls", Usage(1, 1)),
]


def test_calls_are_kept_with_their_results_and_thoughts(server: Served, backend: FakeBackend) -> None:
    backend.script = CALLS
    id = ask(server, "new", user("one"), tools=[TOOL], stream=True)
    assert texts(server, id) == ["user: one", "reasoning", "function_call", "function_call"]
    backend.script = ["Done."]
    results = [{"role": "tool", "tool_call_id": f"call_{n}", "content": f"result {n}"} for n in (1, 2)]
    ask(server, id, *results, tools=[TOOL])
    messages = backend.conversations[-1].messages
    assert [message.role for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1].reasoning == "I should call."
    assert [call.id for call in messages[1].tool_calls] == [message.tool_call_id for message in messages[2:]]
    assert texts(server, id)[4:] == ["function_call_output", "function_call_output", "assistant: Done."]


def test_call_whose_result_never_came_does_not_stop_the_conversation(
    server: Served, backend: FakeBackend
) -> None:
    backend.script = CALLS
    id = ask(server, "new", user("one"), tools=[TOOL])
    backend.script = ["Never mind."]
    ask(server, id, user("two"))
    assert not any(message.tool_calls for message in backend.conversations[-1].messages)


def test_older_turns_go_where_the_context_is_too_short(server: Served, backend: FakeBackend) -> None:
    id = new(server, SYSTEM, *(user(f"{n}" * 1500) for n in range(5)))  # a token is a byte; 4096 fit
    ask(server, id, user("short"))  # a quarter of them is kept free for the answer
    assert [text[:5] for _, text in read(backend)] == ["Be br", "33333", "44444", "short"]
    ask(server, id, user("x" * 4000))
    assert [text[:5] for _, text in read(backend)] == ["Be br", "xxxxx"]
    assert len(items_of(server, id)) == 10


def test_own_messages_are_never_cut(small_server: Served) -> None:
    model = small_server.backend.models()[0].id  # 256 tokens fit
    id = new(small_server, user("hi " * 40), assistant("hello"))
    long = {**body(user("word " * 400), conversation=id), "model": model}
    response = small_server.post(CHAT, long)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert response.headers["x-conversation-id"] == id
    assert len(items_of(small_server, id)) == 2
    fitting = {**body(user("word " * 150), conversation=id, max_tokens=4), "model": model}
    assert small_server.post(CHAT, fitting).status_code == 200
    assert len(items_of(small_server, id)) == 4


def test_real_model_reads_the_conversation(exact_server: Served) -> None:
    """As many tokens as when all of it is sent at once."""
    said = [SYSTEM, user("I am Ada."), assistant("Hello, Ada."), user("Who am I?")]
    members = {"model": exact_server.backend.models()[0].id, "max_tokens": 8, "temperature": 0}
    whole = exact_server.post(CHAT, {**members, "messages": said}).json()
    id = new(exact_server, *said[:3])
    stored = exact_server.post(CHAT, {**members, "messages": said[3:], "conversation": id}).json()
    assert stored["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert stored["choices"] == whole["choices"]
    answer = items_of(exact_server, id)[-1]
    assert answer["content"][0]["text"] == whole["choices"][0]["message"]["content"]
    assert (
        answer["status"]
        == {"stop": "completed", "length": "incomplete"}[whole["choices"][0]["finish_reason"]]
    )


def test_caller_that_leaves_frees_the_slot_and_the_partial_answer_is_kept(
    server: Served, backend: FakeBackend
) -> None:
    id = ask(server, "new", user("one"))
    backend.script, backend.delay_s = ["tick "] * 1000, 0.02
    request = body(user("two"), conversation=id, stream=True)
    with server.http.stream("POST", CHAT, json=request) as response:
        lines = response.iter_lines()  # held: httpx2 hangs up when its iterator is dropped
        assert any("tick" in line for line in lines)
        locked = server.post(CHAT, body(user("three"), conversation=id))
        assert (locked.status_code, locked.json()["error"]["code"]) == (400, "conversation_locked")
        assert locked.headers["x-conversation-id"] == id
    eventually(lambda: not backend.num_active)
    eventually(lambda: len(items_of(server, id)) == 4)
    question, answer = items_of(server, id)[2:]
    assert (question["status"], answer["status"]) == ("completed", "incomplete")
    assert answer["content"][0]["text"].startswith("tick ")
    backend.script, backend.delay_s = ["Hello"], 0
    ask(server, id, user("four"))
    assert [role for role, _ in read(backend)] == ["user", "assistant"] * 2 + ["user"]


def test_calls_of_a_partial_answer_are_not_kept(server: Served, backend: FakeBackend) -> None:
    id = new(server)
    backend.script = ["Let me see.", CALLS[1], *["tick"] * 1000]
    backend.delay_s = 0.02
    request = body(user("one"), conversation=id, stream=True, tools=[TOOL])
    with server.http.stream("POST", CHAT, json=request) as response:
        lines = response.iter_lines()  # held: httpx2 hangs up when its iterator is dropped
        assert any("tick" in line for line in lines)
    eventually(lambda: items_of(server, id))
    assert [item["type"] for item in items_of(server, id)] == ["message", "message"]


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_kept_of_a_turn_that_fails(server: Served, backend: FakeBackend, stream: bool) -> None:
    id = ask(server, "new", user("one"))
    backend.error = EngineFailed("broken")
    response = server.post(CHAT, body(user("two"), conversation=id, stream=stream))
    assert response.headers["x-conversation-id"] == id
    assert "engine_failed" in response.text
    assert len(items_of(server, id)) == 2
    backend.error = None
    ask(server, id, user("two"))
    assert len(items_of(server, id)) == 4


def test_nothing_is_kept_of_an_answer_that_nobody_saw_begin(server: Served, backend: FakeBackend) -> None:
    id = ask(server, "new", user("one"))
    backend.script, backend.delay_s = ["tick "] * 1000, 0.02
    request = body(user("two"), conversation=id)
    with server.begin(CHAT, request):
        eventually(lambda: backend.num_active)
    eventually(lambda: not server.gateway.num_active)
    backend.script = [ReasoningDelta(0, "hm")] * 1000
    with server.http.stream("POST", CHAT, json={**request, "stream": True}) as response:
        lines = response.iter_lines()  # held: httpx2 hangs up when its iterator is dropped
        assert any("hm" in line for line in lines)
    eventually(lambda: not server.gateway.num_active)
    backend.script, backend.delay_s = ["Hello"], 0
    eventually(lambda: server.post(CHAT, body(user("three"), conversation=id)).status_code == 200)
    assert texts(server, id)[2:] == ["user: three", "assistant: Hello"]


def test_caller_that_leaves_before_the_answer_begins_lets_the_conversation_go(
    server: Served, backend: FakeBackend
) -> None:
    id, backend.opening_s = new(server), 60.0
    request = body(user("one"), conversation=id, stream=True)
    with server.begin(CHAT, request):
        eventually(lambda: backend.num_active)
    eventually(lambda: not server.gateway.num_active)
    backend.opening_s = 0.0
    eventually(lambda: server.post(CHAT, body(user("two"), conversation=id)).status_code == 200)
    assert texts(server, id) == ["user: two", "assistant: Hello"]


class Waiting(FakeBackend):
    """Answers when it may."""

    def __init__(self) -> None:
        super().__init__(["Hello"])
        self.may = threading.Event()

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        async with super().generate(request) as events:
            await asyncio.to_thread(self.may.wait)
            yield events


def test_answer_is_delivered_though_the_database_has_gone(fake_server: FakeServer) -> None:
    with postgresql() as database, ThreadPoolExecutor() as threads:
        backend = Waiting()
        server = fake_server(backend, config=Config.model_validate({"store": {"url": database.create()}}))
        request = body(user("one"), conversation=new(server), store=True)
        answering = threads.submit(server.post, CHAT, request)
        eventually(lambda: backend.num_active)
        database.stop()
        backend.may.set()
        response = answering.result()
    assert (response.status_code, response.headers["x-headrace-persisted"]) == (200, "false")
    assert response.json()["choices"][0]["message"]["content"] == "Hello"


def test_provider_by_its_path(server: Served, backend: FakeBackend) -> None:
    id = ask(server, "new", user("one"), path="/fake/v1/chat/completions")
    ask(server, id, user("two"), path="/fake/v1/chat/completions", store=True)
    assert len(read(backend)) == 3
    assert len(server.get(CHAT).json()["data"]) == 1


@pytest.mark.parametrize(
    ("members", "header", "status", "code", "param"),
    [
        ({"conversation": "conv_1"}, None, 404, "conversation_not_found", None),
        ({}, "conv_1", 404, "conversation_not_found", None),
        ({"conversation": "resp_1"}, None, 400, "invalid_value", "conversation"),
        ({}, "", 400, "invalid_value", "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conv_2", 400, "invalid_value", "conversation"),
        ({"conversation_id": "conv_1"}, None, 404, "conversation_not_found", None),
        ({"conversation_id": "conv_1"}, "conv_2", 400, "invalid_value", "conversation_id"),
        (
            {"conversation_id": "conv_1", "conversation": "conv_2"},
            "conv_1",
            400,
            "invalid_value",
            "conversation",
        ),
        ({"conversation": 1}, None, 400, "invalid_value", "conversation"),
        ({"conversation": {}}, None, 400, "missing_required_parameter", "conversation.id"),
        ({"conversation": "new", "n": 2}, None, 400, "invalid_value", "n"),
        ({"conversation": "new", "continue_final_message": True}, None, 400, "invalid_value", None),
    ],
)
def test_faults_are_named(
    server: Served,
    backend: FakeBackend,
    members: dict[str, Any],
    header: str | None,
    status: int,
    code: str,
    param: str | None,
) -> None:
    headers = {} if header is None else {"X-Conversation-ID": header}
    response = server.post(CHAT, body(user("hi"), **members), headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert param is None or error["param"] == param
    assert backend.requests == []


def test_the_member_conversation_id_names_one_as_well(server: Served, backend: FakeBackend) -> None:
    made = server.post(CHAT, body(user("one"), conversation_id="new")).headers["x-conversation-id"]
    again = server.post(CHAT, body(user("two"), conversation_id=made, conversation=made))
    assert again.headers["x-conversation-id"] == made
    assert read(backend)[0] == ("user", "one")


def test_another_keys_conversation_does_not_exist(fake_server: FakeServer, backend: FakeBackend) -> None:
    config = Config.model_validate({"server": {"api_keys": ("one", "two")}})
    server = fake_server(backend, config=config)
    with server.client("one") as owner, server.client("two") as other:
        id = owner.conversations.create().id
        messages: list[Any] = [user("hi")]
        with pytest.raises(openai.NotFoundError) as caught:
            other.chat.completions.create(model="fake", messages=messages, extra_body={"conversation": id})
        assert caught.value.code == "conversation_not_found"
    assert backend.requests == []


def test_stateless_chats_stay_so(server: Served, backend: FakeBackend) -> None:
    for _ in range(2):
        assert "x-conversation-id" not in server.post(CHAT, body(user("hi"))).headers
    assert read(backend) == [("user", "hi")]
    assert server.get(CONVERSATIONS).json()["data"] == []
