"""Responses that go on without their caller."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import ContextTooLong
from tests.api.responses_client import PATH, streamed, strict
from tests.conftest import FakeServer
from tests.serving import eventually
from tests.wire.stream_order import in_pieces, read_stream

TICKS = ["tick "] * 2000
HI = {"model": "fake", "input": "hi", "background": True}


def test_polling(fake_server: FakeServer) -> None:
    backend = FakeBackend(["Hello", " world"], delay_s=0.05)
    with strict(fake_server(backend)) as client:
        queued = client.responses.create(model="fake", input="hi", background=True)
        assert (queued.status, queued.output, queued.background) == ("queued", [], True)
        seen = []

        def is_over() -> bool:
            seen.append(client.responses.retrieve(queued.id).status)
            return seen[-1] not in ("queued", "in_progress")

        eventually(is_over)
        assert seen[-1] == "completed"
        assert client.responses.retrieve(queued.id).output_text == "Hello world"
        unchanged = client.responses.cancel(queued.id)
        assert unchanged.status == "completed"
        on = client.responses.create(model="fake", input="on", previous_response_id=queued.id)
        assert on.status == "completed"


def test_what_is_unfinished_cannot_be_gone_on_from(fake_server: FakeServer) -> None:
    with strict(fake_server(FakeBackend(TICKS, delay_s=0.01))) as client:
        running = client.responses.create(model="fake", input="hi", background=True)
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="fake", input="on", previous_response_id=running.id)
        assert caught.value.param == "previous_response_id"
        client.responses.cancel(running.id)


def test_cancel(fake_server: FakeServer) -> None:
    backend = FakeBackend(TICKS, delay_s=0.01)
    with strict(fake_server(backend)) as client:
        conversation = client.conversations.create().id
        running = client.responses.create(
            model="fake", input="hi", background=True, conversation=conversation
        )
        eventually(lambda: backend.num_active)
        cancelled = client.responses.cancel(running.id)
        assert cancelled.status == "cancelled"
        assert not backend.num_active
        assert client.responses.cancel(running.id).to_dict() == cancelled.to_dict()
        assert client.responses.retrieve(running.id).status == "cancelled"
        assert client.conversations.items.list(conversation).data == []
        backend.script = ["done"]
        client.responses.create(model="fake", input="on", conversation=conversation)


def test_only_background_responses_are_cancelled(fake_server: FakeServer) -> None:
    with strict(fake_server()) as client:
        made = client.responses.create(model="fake", input="hi")
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
            client.responses.cancel(made.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.cancel("resp_nowhere")


def test_stream_goes_on_without_its_reader(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 50, delay_s=0.01)
    server = fake_server(backend)
    with server.http.stream("POST", PATH, json={**HI, "stream": True}) as response:
        lines = response.iter_lines()
        seen = [json.loads(line[6:]) for line, _ in zip(lines, range(12), strict=False) if line[:4] == "data"]
    assert backend.num_active
    id = seen[0]["response"]["id"]
    raw = server.get(f"{PATH}/{id}?stream=true&starting_after={seen[-1]['sequence_number']}")
    rest = read_stream_after(raw.content, seen)
    assert rest[-1]["type"] == "response.completed"
    assert rest[-1]["response"]["output"][0]["content"][0]["text"] == "tick " * 50
    again = server.get(f"{PATH}/{id}?stream=true")
    assert read_stream(in_pieces(again.content, 3)) == [*seen, *rest]


def read_stream_after(raw: bytes, seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rest of a stream of which that was seen."""
    head = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in seen).encode()
    return read_stream(in_pieces(head + raw, 2))[len(seen) :]


def test_failure_has_its_reason(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend([], refusal=ContextTooLong("too long")))
    *_, failed = streamed(server, HI)
    assert failed["response"]["error"] == {"code": "invalid_prompt", "message": "too long"}
    with strict(server) as client:
        stored = client.responses.retrieve(failed["response"]["id"])
        assert stored.status == "failed"
        assert stored.error is not None
        assert stored.error.message == "too long"


def test_deleting_ends_it(fake_server: FakeServer) -> None:
    backend = FakeBackend(TICKS, delay_s=0.01)
    with strict(fake_server(backend)) as client:
        running = client.responses.create(model="fake", input="hi", background=True)
        eventually(lambda: backend.num_active)
        client.responses.delete(running.id)
        assert not backend.num_active
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(running.id)


def test_another_process_reads_and_cancels_it(fake_server: FakeServer, database_url: str) -> None:
    config = Config.model_validate({"store": {"url": database_url}})
    backend = FakeBackend(TICKS, delay_s=0.01)
    with strict(fake_server(backend, config=config)) as here, strict(fake_server(config=config)) as there:
        running = here.responses.create(model="fake", input="hi", background=True, stream=True)
        id = next(iter(running)).response.id  # type: ignore[union-attr]  # response.created
        events = iter(there.responses.retrieve(id, stream=True))
        assert next(events).type == "response.created"
        assert there.responses.cancel(id).status == "cancelled"
        assert not backend.num_active
        *_, last = events
        assert last.type == "response.failed"
        assert last.response.status == "cancelled"
        assert here.responses.retrieve(id).status == "cancelled"


def test_shutdown_says_why_it_ended(fake_server: FakeServer, database_url: str) -> None:
    config = Config.model_validate({"store": {"url": database_url}})
    backend = FakeBackend(TICKS, delay_s=0.01)
    server = fake_server(backend, config=config)
    with strict(server) as client:
        conversation = client.conversations.create().id
        running = client.responses.create(
            model="fake", input="hi", background=True, conversation=conversation
        )
        eventually(lambda: backend.num_active)
        asyncio.run_coroutine_threadsafe(server.gateway.drain(0.05), server.loop).result(60)
    with strict(fake_server(config=config)) as client:
        eventually(lambda: client.responses.retrieve(running.id).status == "failed")
        error = client.responses.retrieve(running.id).error
        assert error is not None
        assert error.message == "the server is shutting down"
        client.responses.create(model="fake", input="on", conversation=conversation)
