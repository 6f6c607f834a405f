"""A response as a stream: its order, what comes when something goes wrong, and reading it again."""

from __future__ import annotations

import json
import random

import openai
import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import ContextTooLong, Overloaded
from headrace.types import Event, Finished, Started, TextDelta, Usage
from tests.api.responses_client import PATH, WEATHER, Turns, call, script, streamed, strict
from tests.conftest import FakeServer
from tests.serving import eventually
from tests.wire.stream_order import in_pieces, read_stream

HI = {"model": "fake", "input": "hi"}


def test_any_answer_is_a_stream_in_order(fake_server: FakeServer) -> None:
    dice = random.Random(7)
    scripts = [script(dice) for _ in range(60)]
    server = fake_server(Turns(*scripts))
    with strict(server) as client:
        for seed in range(60):
            events = streamed(server, {**HI, "tools": [WEATHER], "background": seed % 3 == 0}, seed)
            last = events[-1]["response"]
            whole = client.responses.retrieve(last["id"]).to_dict()
            assert whole["output"] == last["output"]
            assert whole["status"] == last["status"]


def test_clients_own_helper_reads_it(fake_server: FakeServer) -> None:
    backend = Turns(call(), ["It is ", "warm."])
    with strict(fake_server(backend)) as client:
        with client.responses.stream(model="fake", input="hi", tools=[WEATHER]) as stream:
            wanted = stream.get_final_response()
        assert wanted.output[0].type == "function_call"
        answer = {"type": "function_call_output", "call_id": "call_1", "output": "20"}
        with client.responses.stream(
            model="fake",
            previous_response_id=wanted.id,
            input=[answer],  # type: ignore[list-item]  # a dict
        ) as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            assert deltas == ["It is ", "warm."]
            assert stream.get_final_response().output_text == "It is warm."


def test_end_is_reported_when_it_is_kept(fake_server: FakeServer) -> None:
    server = fake_server()
    with strict(server) as client:
        conversation = client.conversations.create().id
        for _ in range(10):
            for event in client.responses.create(**HI, conversation=conversation, stream=True):  # type: ignore[call-overload]  # **HI
                if event.type == "response.completed":
                    assert client.responses.retrieve(event.response.id).status == "completed"
        assert len(client.conversations.items.list(conversation, limit=100).data) == 20


def test_headers_tell_who_answers_and_where_time_went(fake_server: FakeServer) -> None:
    timed: list[Event] = [
        Started(0, 0.001, 0.002),
        TextDelta(0, "a", (), 1),
        Finished(0, "stop", Usage(1, 1), 0.003),
    ]
    server = fake_server(FakeBackend(timed))
    for stream in (True, False):
        tools = [{"type": "web_search"}]
        response = server.post(PATH, {**HI, "stream": stream, "tools": tools, "user": "me"})
        assert response.headers["x-headrace-backend"] == "fake"
        assert response.headers["x-headrace-attempts"] == "1"
        assert response.headers["server-timing"].startswith("queue;dur=1.0, prefill;dur=2.0")
        ignored = response.headers["x-headrace-ignored"]
        assert "user" in ignored
        assert "web_search" in ignored
        assert "openai-processing-ms" in response.headers


@pytest.mark.parametrize("stream", [True, False])
def test_error_before_the_first_event_has_its_status(fake_server: FakeServer, stream: bool) -> None:
    server = fake_server(FakeBackend([], error=Overloaded("full", retry_after_s=7)))
    response = server.post(PATH, {**HI, "stream": stream})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["code"] == "server_is_overloaded"


def test_refusal_names_what_was_asked(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend([], refusal=ContextTooLong("too long", param="messages")))
    error = server.post(PATH, HI).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def test_failure_amid_a_stream_is_kept(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["half"], error=RuntimeError("secret")))
    *_, error, failed = streamed(server, HI)
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": "the server had an error"}
    with strict(server) as client:
        stored = client.responses.retrieve(failed["response"]["id"])
        assert stored.status == "failed"
        assert stored.output_text == "half"


def test_stream_is_read_again(fake_server: FakeServer) -> None:
    server = fake_server()
    events = streamed(server, HI)
    id = events[-1]["response"]["id"]
    again = server.get(f"{PATH}/{id}?stream=true")
    assert read_stream(in_pieces(again.content, 1)) == events
    with strict(server) as client:
        rest = list(client.responses.retrieve(id, stream=True, starting_after=5))
        assert [event.sequence_number for event in rest] == [event["sequence_number"] for event in events[6:]]
        assert list(client.responses.retrieve(id, stream=True, starting_after=len(events) - 1)) == []
        silent = client.responses.create(model="fake", input="hi")
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.retrieve(silent.id, stream=True)
        assert caught.value.param == "stream"


def test_leaving_frees_the_backend_and_lets_go(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 1000, delay_s=0.01)
    server = fake_server(backend)
    with strict(server) as client:
        conversation = client.conversations.create().id
        body = {**HI, "stream": True, "conversation": conversation}
        with server.http.stream("POST", PATH, json=body) as response:
            lines = response.iter_lines()
            created = json.loads(next(line for line in lines if line.startswith("data"))[6:])
        eventually(lambda: not backend.num_active)
        id = created["response"]["id"]
        eventually(lambda: _is(client, id, "cancelled"))
        assert client.conversations.items.list(conversation).data == []
        backend.script = ["done"]
        client.responses.create(model="fake", input="on", conversation=conversation)
        *_, last = client.responses.retrieve(id, stream=True, starting_after=3)
        assert last.type == "response.failed"
        assert last.response.status == "cancelled"


def _is(client: openai.OpenAI, id: str, status: str) -> bool:
    try:
        return client.responses.retrieve(id).status == status
    except openai.NotFoundError:
        return False


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_event_leaves_no_trace(fake_server: FakeServer, stream: bool) -> None:
    backend = FakeBackend(["tick"], delay_s=60)
    server = fake_server(backend)
    with strict(server) as client:
        conversation = client.conversations.create().id
        with server.begin(PATH, {**HI, "stream": stream, "conversation": conversation}):
            eventually(lambda: backend.num_active)
        eventually(lambda: not backend.num_active)
        backend.delay_s = 0
        eventually(lambda: _can_ask(client, conversation))


def _can_ask(client: openai.OpenAI, conversation: str) -> bool:
    try:
        client.responses.create(model="fake", input="on", conversation=conversation)
    except openai.BadRequestError:
        return False
    return True
