"""A caller that leaves frees its resources at once, whenever it leaves and whatever it waits for."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import MutableMapping
from typing import Any

import httpx2
import pytest
from starlette.types import Receive

from headrace.backends.fake import FakeBackend
from headrace.errors import ClientGone, Overloaded, ServerError
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import Until, interrupt
from headrace.types import Conversation, GenerateRequest, Message, TextDelta
from headrace.wire.chat import ChatBody, Chunks
from tests.conftest import FakeServer
from tests.serving import eventually, live_stream

CHAT = "/v1/chat/completions"
REQUEST = GenerateRequest("fake", Conversation((Message("user", "hi"),)))
BODY = ChatBody.model_validate({"model": "fake", "messages": [{"role": "user", "content": "hi"}]})


def body(stream: bool) -> dict[str, Any]:
    return {"model": "fake", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}


def test_leaving_in_mid_stream_frees_the_backend(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 1000, delay_s=0.02)
    server = fake_server(backend)
    with server.http.stream("POST", CHAT, json=body(stream=True)) as response:
        chunks = response.iter_bytes()  # a variable, because httpx2 hangs up when its iterator is dropped
        next(chunks)
        assert backend.num_active == 1
    eventually(lambda: not backend.num_active)
    eventually(lambda: not server.gateway.num_active)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_token_frees_the_backend(fake_server: FakeServer, stream: bool) -> None:
    backend = FakeBackend(["tick"], delay_s=60)
    server = fake_server(backend)
    with server.begin(CHAT, body(stream)):
        eventually(lambda: backend.num_active)
    eventually(lambda: not backend.num_active)
    eventually(lambda: not server.gateway.num_active)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_response_begins_frees_the_backend(fake_server: FakeServer, stream: bool) -> None:
    backend = FakeBackend(["tick "] * 1000, opening_s=0.3, delay_s=60)
    server = fake_server(backend)
    with server.begin(CHAT, body(stream)):
        eventually(lambda: backend.num_active)
    eventually(lambda: not backend.num_active)
    eventually(lambda: not server.gateway.num_active)


def test_half_a_request_holds_nothing(fake_server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = fake_server()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
    eventually(lambda: f"POST {CHAT} 499" in caplog.text)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert server.gateway.num_active == 0


def test_many_that_leave_do_not_disturb_one_that_stays(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick "] * 50, delay_s=0.01)
    server = fake_server(backend)
    leaving = [server.begin(CHAT, body(index % 2 == 0)) for index in range(20)]
    eventually(lambda: backend.num_active == 20)
    with server.client() as client:
        stream = client.completions.create(model="fake", prompt="x", stream=True)
        for connection in leaving:
            connection.close()
        assert "".join(chunk.choices[0].text for chunk in stream) == "tick " * 50
    eventually(lambda: not backend.num_active)


def test_client_that_times_out_frees_the_backend(fake_server: FakeServer) -> None:
    backend = FakeBackend(["tick"], delay_s=60)
    server = fake_server(backend)
    with pytest.raises(httpx2.ReadTimeout):
        server.http.post(CHAT, json=body(stream=False), timeout=httpx2.Timeout(5, read=0.2))
    eventually(lambda: not backend.num_active)


async def gone() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize("send_suspends", [True, False])
@pytest.mark.parametrize("send_fails", [True, False])
def test_stream_is_closed_when_its_reader_never_begins(send_suspends: bool, send_fails: bool) -> None:
    async def send(message: MutableMapping[str, Any]) -> None:
        if send_suspends:
            await asyncio.sleep(0.01)
        if send_fails and message["type"] == "http.response.body":
            raise OSError("nobody listens")  # as servers of ASGI 2.4 do

    async def run() -> None:
        backend = FakeBackend(["tick"] * 9, delay_s=0.02)
        generation = await Gateway([backend]).start(REQUEST)
        assert backend.num_active == 1
        await live_stream(generation, Chunks(BODY, generation.info))({"type": "http"}, gone, send)
        assert backend.num_active == 0

    asyncio.run(run())


def test_stream_ends_quietly_when_sending_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def never() -> MutableMapping[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise BrokenPipeError

    async def run() -> None:
        backend = FakeBackend(["tick"] * 9)
        generation = await Gateway([backend]).start(REQUEST)
        await live_stream(generation, Chunks(BODY, generation.info))({"type": "http"}, never, send)
        assert backend.num_active == 0

    asyncio.run(run())
    assert not caplog.records


def test_work_that_is_attended_ends_for_one_reason() -> None:
    async def never() -> MutableMapping[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def work(receive: Receive, interrupted: asyncio.Future[ServerError]) -> None:
        async with Until(interrupted, receive=receive):
            await asyncio.sleep(60)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ClientGone):
            await work(gone, loop.create_future())
        interrupted = loop.create_future()
        interrupted.set_result(Overloaded("enough"))
        with pytest.raises(Overloaded):
            await work(never, interrupted)
        with pytest.raises(TimeoutError):  # from outside, as any other
            async with asyncio.timeout(0.01):
                await work(never, loop.create_future())
        async with Until(loop.create_future(), receive=never):
            pass

    asyncio.run(run())


def test_work_ends_when_its_caller_leaves_or_it_is_interrupted() -> None:
    async def never() -> MutableMapping[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def run() -> None:
        gateway = Gateway([FakeBackend(["tick"], delay_s=0.05)])
        generation = await gateway.start(REQUEST)
        async with Until(generation.interrupted, receive=never):
            assert await anext(generation) == TextDelta(0, "tick")
        await generation.aclose()
        generation = await gateway.start(REQUEST)
        with pytest.raises(ClientGone):
            async with Until(generation.interrupted, receive=gone):
                await anext(generation)
        await generation.aclose()
        generation = await gateway.start(REQUEST)
        interrupt(generation.interrupted, Overloaded("enough"))
        with pytest.raises(Overloaded):
            async with Until(generation.interrupted, receive=never):
                await anext(generation)
        await generation.aclose()
        assert gateway.num_active == 0

    asyncio.run(run())


def test_nothing_goes_on_listening_for_a_caller_after_the_work() -> None:
    """What is left would read the next message of the connection, or be reported as lost at the end."""

    async def never() -> MutableMapping[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def run() -> None:
        async with Until(asyncio.get_running_loop().create_future(), receive=never):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with Until(receive=never), asyncio.timeout(0):
                await asyncio.sleep(60)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_an_interruption_is_reported_rather_than_that_the_caller_left_at_once() -> None:
    async def run() -> None:
        interrupted: asyncio.Future[ServerError] = asyncio.get_running_loop().create_future()
        interrupted.set_result(Overloaded("enough"))
        with pytest.raises(Overloaded):
            async with Until(interrupted, receive=gone):
                await asyncio.sleep(60)

    asyncio.run(run())


@pytest.mark.parametrize("type", ["http.request", "http.response.pathsend", "websocket.receive"])
def test_only_a_disconnect_means_that_a_caller_has_left(type: str) -> None:
    """Pieces of a body may come while the answer is computed."""
    messages: list[MutableMapping[str, Any]] = [{"type": type}, {"type": type}]

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def run() -> None:
        async with Until(receive=receive):
            await asyncio.sleep(0.02)
        assert not messages

    asyncio.run(run())
