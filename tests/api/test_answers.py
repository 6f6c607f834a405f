"""What every generation's response has: times in a header, a real status before the first event, and signs of
life while nothing comes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import MutableMapping
from typing import Any

import pytest

from headrace.backends.fake import FakeBackend
from headrace.gateway.gateway import Gateway
from headrace.types import Event, Finished, GenerateRequest, Started, TextDelta, Texts, Usage
from headrace.wire.completions import Chunks, CompletionBody
from tests.conftest import FakeServer
from tests.serving import events, live_stream

PATH = "/v1/completions"
HI = {"model": "fake", "prompt": "hi"}
TIMED: list[Event] = [
    Started(0, 0.0015, 0.25),
    TextDelta(0, "a", (), 1),
    Finished(0, "stop", Usage(1, 1), 2.5),
]


def test_json_answer_tells_where_the_time_went(fake_server: FakeServer) -> None:
    response = fake_server(FakeBackend(TIMED)).post(PATH, HI)
    assert response.headers["server-timing"] == "queue;dur=1.5, prefill;dur=250.0, decode;dur=2500.0"


def test_stream_tells_what_is_known_when_it_begins(fake_server: FakeServer) -> None:
    response = fake_server(FakeBackend(TIMED)).post(PATH, {**HI, "stream": True, "user": "me"})
    assert response.headers["server-timing"] == "queue;dur=1.5, prefill;dur=250.0"
    assert response.headers["x-headrace-ignored"] == "user"
    first, *_ = events(response)
    assert first["choices"][0]["text"] == "a"


@pytest.mark.parametrize("stream", [True, False])
def test_times_that_are_not_known_are_not_reported(fake_server: FakeServer, stream: bool) -> None:
    response = fake_server().post(PATH, {**HI, "stream": stream})
    assert "server-timing" not in response.headers


def test_stream_begins_before_a_late_first_event(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(["late"], delay_s=60))
    with server.http.stream("POST", PATH, json={**HI, "stream": True}) as response:
        assert response.status_code == 200


def test_stream_without_any_event_is_no_success(fake_server: FakeServer) -> None:
    class Mute(FakeBackend):
        async def _events(self, num_choices: int) -> Any:
            return
            yield

    answer = fake_server(Mute([])).post(PATH, {**HI, "stream": True})
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the answer broke off")


async def never() -> MutableMapping[str, Any]:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def sent_by(backend: FakeBackend, keep_alive_s: float) -> bytes:
    """The whole body of a stream."""
    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def run() -> None:
        generation = await Gateway([backend]).start(GenerateRequest("fake", Texts(("hi",))))
        encoder = Chunks(CompletionBody.model_validate({**HI, "stream": True}), generation.info)
        stream = live_stream(generation, encoder, keep_alive_s=keep_alive_s)
        await stream({"type": "http"}, never, send)

    asyncio.run(run())
    return b"".join(sent)


def test_comment_is_sent_while_nothing_else_is() -> None:
    body = sent_by(FakeBackend(["tick"] * 2, delay_s=0.5), keep_alive_s=0.2)
    frames = body.decode().split("\n\n")
    assert 1 < frames.count(": keep-alive") < 6
    assert frames[0] == ": keep-alive"
    assert len([frame for frame in frames if frame.startswith("data: ")]) == 4
    assert re.sub(r": keep-alive\n\n", "", body.decode()).startswith("data: {")


def test_busy_stream_needs_no_comment() -> None:
    assert b"keep-alive" not in sent_by(FakeBackend(["tick"] * 20, delay_s=0.03), keep_alive_s=2)


def test_comment_to_nobody_ends_the_stream() -> None:
    backend = FakeBackend(["tick"], delay_s=60)

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise BrokenPipeError

    async def run() -> None:
        generation = await Gateway([backend]).start(GenerateRequest("fake", Texts(("hi",))))
        encoder = Chunks(CompletionBody.model_validate({**HI, "stream": True}), generation.info)
        async with asyncio.timeout(60):
            await live_stream(generation, encoder, keep_alive_s=0.05)({"type": "http"}, never, send)
        assert backend.num_active == 0

    asyncio.run(run())
