"""A response that fails before its client knows its id is not stored, and leaves no conversation locked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from headrace.backends.fake import FakeBackend
from headrace.errors import EngineFailed, Overloaded, ProviderRefused
from headrace.store.tables import items, responses
from tests.conftest import FakeServer
from tests.serving import Served, eventually

PATH = "/v1/responses"
HI = {"model": "fake", "input": "hi"}


def num_stored(server: Served) -> tuple[int, int]:
    """The number of responses and of items in the database."""

    def count(c: Connection) -> tuple[int, int]:
        numbers = [
            c.execute(select(func.count()).select_from(table)).scalar_one() for table in (responses, items)
        ]
        return numbers[0], numbers[1]

    store: Any = server.app.state.store
    reading = asyncio.run_coroutine_threadsafe(store._database.read(count), server.loop)
    found: tuple[int, int] = reading.result(60)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(lambda: FakeBackend([], error=EngineFailed("broken")), id="at once"),
        pytest.param(lambda: FakeBackend([], refusal=Overloaded("full")), id="refused"),
        pytest.param(lambda: FakeBackend([], refusal=ProviderRefused("no", param="input")), id="a 400"),
    ],
)
def test_a_response_that_fails_before_its_first_event_is_not_stored(
    fake_server: FakeServer, backend: Any, stream: bool
) -> None:
    server = fake_server(backend())
    conversation = server.post("/v1/conversations", {}).json()["id"]
    for body in (HI, {**HI, "conversation": conversation}):
        assert server.post(PATH, {**body, "stream": stream}).status_code >= 400
        assert num_stored(server) == (0, 0)
    assert server.get(f"/v1/conversations/{conversation}/items").json()["data"] == []
    added = {"items": [{"role": "user", "content": "free"}]}
    assert server.post(f"/v1/conversations/{conversation}/items", added).status_code == 200


def test_a_broken_response_is_stored_only_if_the_client_knows_its_id(fake_server: FakeServer) -> None:
    backend = FakeBackend(["Hel"], error=EngineFailed("broken"))
    server = fake_server(backend)
    assert server.post(PATH, HI).status_code == 500
    assert num_stored(server)[0] == 0
    streamed = server.post(PATH, {**HI, "stream": True})
    assert streamed.status_code == 200
    eventually(lambda: num_stored(server)[0] == 1)
    assert server.post(PATH, {**HI, "stream": True, "store": False}).status_code == 200
    assert num_stored(server)[0] == 1
