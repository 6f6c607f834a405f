"""A database that fails once there is an answer."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config, StoreConfig
from headrace.errors import StoreUnavailable
from headrace.store import Store, StoredResponse
from headrace.store.responses import Responses as StoredResponses
from headrace.turns.presets import Presets
from headrace.turns.responses import Responses
from headrace.turns.steering import Steering
from tests.serving import eventually, serving
from tests.wire.stream_order import in_pieces, read_stream

PATH = "/v1/responses"
HI = {"model": "fake", "input": "my secret"}


class FailingResponses(StoredResponses):
    """Its next `failures` saves of a response that has ended fail."""

    failures = 0

    async def save(self, owner: str, response: StoredResponse, **rest: Any) -> StoredResponse:
        if response.status != "queued" and self.failures:
            self.failures -= 1
            raise StoreUnavailable("the database is away")
        return await super().save(owner, response, **rest)


class FailingStore(Store):
    """A real store whose responses can be made to fail."""

    async def start(self) -> None:
        await super().start()
        self.responses = FailingResponses(self._database, self._processes)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_could_not_be_stored_is_delivered_and_says_so(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config()
    app = create_app(config, [FakeBackend(["Hello"])])
    app.state.store = FailingStore(StoreConfig(), config.paths.data)
    app.state.responses = Responses(app.state.gateway, app.state.store)
    app.state.steering = Steering(app.state.gateway, app.state.store)
    app.state.presets = Presets(app.state.gateway, app.state.store)
    with serving(app) as server:
        conversation = server.post("/v1/conversations", {}).json()["id"]
        app.state.store.responses.failures = 1
        response = server.post(PATH, {**HI, "stream": stream, "conversation": conversation})
        whole = (
            read_stream(in_pieces(response.content, 1))[-1]["response"]
            if stream
            else json.loads(response.text)
        )
        assert (whole["status"], whole["store"]) == ("completed", False)
        assert response.headers.get("x-headrace-persisted") == (None if stream else "false")
        assert server.get(f"{PATH}/{whole['id']}").status_code == 404
        assert server.post(PATH, {**HI, "conversation": conversation}).json()["store"] is True
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert whole["id"] in line
    assert "secret" not in caplog.text


def test_background_response_waits_for_the_database() -> None:
    config = Config()
    app = create_app(config, [FakeBackend(["Hello"])])
    app.state.store = FailingStore(StoreConfig(), config.paths.data)
    app.state.responses = Responses(app.state.gateway, app.state.store)
    app.state.steering = Steering(app.state.gateway, app.state.store)
    app.state.presets = Presets(app.state.gateway, app.state.store)
    with serving(app) as server:
        app.state.store.responses.failures = 2
        id = server.post(PATH, {**HI, "background": True}).json()["id"]
        eventually(lambda: server.get(f"{PATH}/{id}").json()["completed_at"])
        eventually(lambda: not app.state.store.responses.failures)
        stored = server.get(f"{PATH}/{id}").json()
        assert (stored["status"], stored["store"]) == ("completed", True)
