"""/v1/responses as clients use it: turns that build on each other, over either database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses.response_input_param import FunctionCallOutput

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.types import Event, Finished, ReasoningDelta, TextDelta, Usage
from tests.api.responses_client import KEYS, WEATHER, Turns, call, said, strict
from tests.conftest import FakeServer
from tests.serving import Served, eventually

LONG: list[str | Event] = ["half", Finished(0, "length", Usage(2, 1))]


@pytest.fixture
def config(database_url: str) -> Config:
    return Config.model_validate({"store": {"url": database_url}, "server": {"api_keys": KEYS}})


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(["Hello", " world"])


@pytest.fixture
def server(fake_server: FakeServer, backend: FakeBackend, config: Config) -> Served:
    return fake_server(backend, config=config)


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with strict(server) as client:
        yield client


def test_answer_is_kept(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="fake", input="hi", instructions="be brief", metadata={"a": "b"}, temperature=0.5
    )
    assert (made.status, made.output_text) == ("completed", "Hello world")
    assert made.usage is not None
    assert made.usage.input_tokens == 1
    stored = client.responses.retrieve(made.id)
    assert stored.to_dict() == made.to_dict()
    assert (stored.metadata, stored.instructions, stored.temperature) == ({"a": "b"}, "be brief", 0.5)


def test_turn_goes_on_from_another(client: openai.OpenAI, backend: FakeBackend) -> None:
    first = client.responses.create(model="fake", input="one", instructions="only now")
    assert said(backend) == [("system", "only now"), ("user", "one")]
    second = client.responses.create(model="fake", input="two", previous_response_id=first.id)
    assert said(backend) == [("user", "one"), ("assistant", "Hello world"), ("user", "two")]
    assert second.previous_response_id == first.id
    client.responses.create(model="fake", input="three", previous_response_id=second.id)
    assert [text for _, text in said(backend)] == ["one", "Hello world", "two", "Hello world", "three"]
    client.responses.create(model="fake", input="other", previous_response_id=first.id)
    assert [text for _, text in said(backend)] == ["one", "Hello world", "other"]


def test_what_was_kept_outlives_the_server(fake_server: FakeServer, config: Config) -> None:
    with strict(fake_server(config=config)) as client:
        made = client.responses.create(model="fake", input="one")
    backend = FakeBackend(["again"])
    with strict(fake_server(backend, config=config)) as client:
        assert client.responses.retrieve(made.id).output_text == "Hello world"
        client.responses.create(model="fake", input="two", previous_response_id=made.id)
    assert said(backend) == [("user", "one"), ("assistant", "Hello world"), ("user", "two")]


def test_conversation_grows_by_what_completes(fake_server: FakeServer, config: Config) -> None:
    backend = Turns(["Hello"], LONG, ["partly"])
    with strict(fake_server(backend, config=config)) as client:
        id = client.conversations.create(items=[{"role": "system", "content": "be kind"}]).id
        made = client.responses.create(model="fake", input="one", conversation=id)
        assert made.conversation is not None
        assert made.conversation.id == id
        cut = client.responses.create(model="fake", input="two", conversation={"id": id})
        assert cut.status == "incomplete"
        backend.error = RuntimeError("broken")
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="fake", input="three", conversation=id)
        backend.error = None
        client.responses.create(model="fake", input="four", conversation=id)
        assert [text for _, text in said(backend)] == ["be kind", "one", "Hello", "two", "half", "four"]
        stored = list(client.conversations.items.list(id, order="asc"))
        assert len(stored) == 7
        assert stored[2].id == made.output[0].id


def test_call_cut_short_can_be_answered_if_it_is_whole(fake_server: FakeServer) -> None:
    whole, broken = (
        [*call(arguments=arguments)[:-1], Finished(0, "length", Usage(5, 5))]
        for arguments in ('{"city":"Paris"}', '{"city":"Par')
    )
    backend = Turns(whole, ["warm"], broken)
    answer = FunctionCallOutput(type="function_call_output", call_id="call_1", output="20")
    with strict(fake_server(backend)) as client:
        cut = client.responses.create(model="fake", input="weather?", tools=[WEATHER])
        assert cut.output[0].to_dict()["status"] == "incomplete"
        client.responses.create(model="fake", input=[answer], previous_response_id=cut.id)
        assert said(backend) == [("user", "weather?"), ("assistant", ""), ("tool", "20")]
        cut = client.responses.create(model="fake", input="weather?", tools=[WEATHER])
        with pytest.raises(openai.BadRequestError, match="call_1"):
            client.responses.create(model="fake", input=[answer], previous_response_id=cut.id)


def test_conversation_is_used_by_one_at_a_time(fake_server: FakeServer, config: Config) -> None:
    backend = FakeBackend(["slow"], delay_s=0.5)
    server = fake_server(backend, config=config)
    with strict(server) as client:
        id = client.conversations.create().id
        answers: list[str] = []

        def ask() -> None:
            answers.append(client.responses.create(model="fake", input="one", conversation=id).output_text)

        thread = threading.Thread(target=ask)
        thread.start()
        eventually(lambda: backend.num_active)
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="fake", input="two", conversation=id)
        thread.join()
        assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
        assert answers == ["slow"]
        client.responses.create(model="fake", input="three", conversation=id)
        assert len(client.conversations.items.list(id).data) == 4


def test_tool_turn(fake_server: FakeServer, config: Config) -> None:
    backend = Turns([ReasoningDelta(0, "hm", 1), *call()], ["It is warm."])
    with strict(fake_server(backend, config=config)) as client:
        first = client.responses.create(model="fake", input="How is Paris?", tools=[WEATHER])
        thought, wanted = first.output
        assert thought.type == "reasoning"
        assert wanted.type == "function_call"
        assert (wanted.name, wanted.arguments) == ("weather", '{"city":"Paris"}')
        second = client.responses.create(
            model="fake",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": wanted.call_id, "output": "20 °C"}],
        )
        assert second.output_text == "It is warm."
        user, assistant, tool = backend.conversations[-1].messages
        assert (user.text, assistant.reasoning, tool.text) == ("How is Paris?", "hm", "20 °C")
        assert assistant.tool_calls[0].id == tool.tool_call_id == wanted.call_id
        items = [item.type for item in client.responses.input_items.list(second.id, order="asc")]
        assert items == ["message", "reasoning", "function_call", "function_call_output"]


def test_what_is_not_to_be_kept_is_not(client: openai.OpenAI, backend: FakeBackend) -> None:
    made = client.responses.create(model="fake", input="hi", store=False)
    assert made.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="fake", input="on", previous_response_id=made.id)
    assert caught.value.code == "previous_response_not_found"
    id = client.conversations.create(items=[{"role": "user", "content": "before"}]).id
    client.responses.create(model="fake", input="hi", store=False, conversation=id)
    assert said(backend) == [("user", "before"), ("user", "hi")]
    assert len(client.conversations.items.list(id).data) == 1


def test_input_items_come_in_pages(client: openai.OpenAI) -> None:
    first = client.responses.create(model="fake", input="one")
    second = client.responses.create(
        model="fake",
        previous_response_id=first.id,
        input=[{"role": "user", "content": f"{n}"} for n in range(5)],
    )
    pages = client.responses.input_items.list(second.id, limit=2)
    texts = [item.to_dict()["content"][0]["text"] for item in pages]  # type: ignore[index]  # messages of text
    assert texts == ["4", "3", "2", "1", "0", "Hello world", "one"]
    page = client.responses.input_items.list(second.id, limit=3, order="asc")
    assert page.has_more
    assert len(page.data) == 3
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.input_items.list(second.id, after="msg_nowhere")
    assert caught.value.param == "after"


def test_reference_stands_for_an_item(client: openai.OpenAI, backend: FakeBackend) -> None:
    made = client.responses.create(model="fake", input="one")
    reference = {"type": "item_reference", "id": made.output[0].id}
    client.responses.create(model="fake", input=[reference, {"role": "user", "content": "two"}])  # type: ignore[list-item]  # a dict
    assert said(backend) == [("assistant", "Hello world"), ("user", "two")]
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="fake", input=[{"type": "item_reference", "id": "msg_nowhere"}])


def test_deleted_response_is_gone(client: openai.OpenAI) -> None:
    made = client.responses.create(model="fake", input="one")
    after = client.responses.create(model="fake", input="two", previous_response_id=made.id)
    client.responses.delete(made.id)
    for act in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            act(made.id)
    assert client.responses.retrieve(after.id).output_text == "Hello world"


def test_other_key_sees_nothing(server: Served, client: openai.OpenAI) -> None:
    made = client.responses.create(model="fake", input="hi", background=True, stream=False)
    conversation = client.conversations.create().id
    eventually(lambda: client.responses.retrieve(made.id).status == "completed")
    with strict(server, "two") as other:
        acts = (
            other.responses.retrieve, other.responses.delete, other.responses.cancel,
            other.responses.input_items.list, lambda id: other.responses.retrieve(id, stream=True),
            lambda _: other.responses.create(model="fake", input="x", conversation=conversation),
        )  # fmt: skip
        for act in acts:
            with pytest.raises(openai.NotFoundError):
                act(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            other.responses.create(model="fake", input="x", previous_response_id=made.id)
        assert caught.value.code == "previous_response_not_found"
    assert client.responses.retrieve(made.id).output_text == "Hello world"


def test_input_is_counted_with_what_goes_before(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="fake", input="four")
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 4)
    made = client.responses.create(model="fake", input="one")
    counted = client.responses.input_tokens.count(model="fake", input="two", previous_response_id=made.id)
    assert counted.input_tokens == len("one\nHello world\ntwo")


def test_l20_compaction_is_what_the_user_said_and_a_summary(fake_server: FakeServer, config: Config) -> None:
    backend = Turns(["Hello"], ["We greeted each other."], ["Hi again"], ["Hi once more"])
    # not strict: the official client's types have no messages of users in an output, its documentation has
    with fake_server(backend, config=config).client("one") as client:
        made = client.responses.create(model="fake", input="hi")
        compacted = client.responses.compact(
            model="fake", previous_response_id=made.id, input=[{"role": "user", "content": "And?"}]
        )
        assert [text for _, text in said(backend)][:3] == ["hi", "Hello", "And?"]
        first, second, item = compacted.output
        for message, text in ((first, "hi"), (second, "And?")):
            listed: dict[str, Any] = message.to_dict(warnings=False)
            assert (listed["type"], listed["role"]) == ("message", "user")
            assert [part["text"] for part in listed["content"]] == [text]
            assert listed["id"].startswith("msg_")
        assert item.type == "compaction"
        again: list[Any] = [one.to_dict(warnings=False) for one in compacted.output]
        client.responses.create(model="fake", input=again)
        assert [role for role, _ in said(backend)] == ["user", "user", "user"]
        client.responses.create(
            model="fake",
            input=[
                {"type": "compaction", "encrypted_content": item.encrypted_content},
                {"role": "user", "content": "on"},
            ],
        )
        summary, question = said(backend)
        assert "summary" in summary[1]
        assert summary[1].endswith("We greeted each other.")
        assert question == ("user", "on")


def test_logprobs_come_when_they_are_included(client: openai.OpenAI, backend: FakeBackend) -> None:
    client.responses.create(
        model="fake", input="hi", top_logprobs=3, include=["message.output_text.logprobs"]
    )
    assert backend.requests[-1].sampling.logprobs == 3
    backend.script = [TextDelta(0, "a")]
    client.responses.create(model="fake", input="hi", text={"format": {"type": "json_object"}})
    assert backend.requests[-1].format is not None
    assert backend.requests[-1].sampling.logprobs is None
