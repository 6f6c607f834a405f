"""What an engine process is sent: for whom a request is, and the members that only Headrace has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.api.authentication import ParentKeys
from headrace.app import create_app
from headrace.backends.engine_process import OwnBackend
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.config.tables import LOCAL
from tests.conftest import FakeServer
from tests.serving import Served, eventually, serving

SECRET = "a-secret-of-this-test"
CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


class Near(OwnBackend):
    """An engine process at a known address."""

    url_of_process = ""

    def __init__(self) -> None:
        super().__init__(LOCAL, SECRET, timeout_s=60)
        self.upstream.base_url = self.url_of_process


@pytest.fixture(scope="module")
def process() -> Iterator[Served]:
    config = Config.model_validate({"server": {"api_keys": [SECRET]}})
    app = create_app(config, [FakeBackend(["Hello"])])
    app.state.keys = ParentKeys(config.server)
    with serving(app) as served:
        Near.url_of_process = served.url + "/v1"
        yield served


def received(process: Served) -> Any:
    backend = process.backend
    assert isinstance(backend, FakeBackend)
    return backend.requests[-1]


def in_front(fake_server: FakeServer, config: Config | None = None) -> Served:
    """A server whose only backend is the process, once it knows the models there."""
    parent = fake_server(Near(), config=config)
    eventually(parent.backend.models, within_s=60)
    return parent


def test_callers_are_kept_apart(process: Served, fake_server: FakeServer) -> None:
    config = Config.model_validate({"server": {"api_keys": ["one-key", "another-key"]}})
    parent = in_front(fake_server, config)
    seen: dict[str, set[Any]] = {}
    for key in ("one-key", "another-key", "one-key"):
        for members in ({}, {"store": True}):  # passed on as it is, and translated
            answer = parent.post("/v1/chat/completions", {**CHAT, **members}, headers={"X-Api-Key": key})
            assert answer.status_code == 200, answer.text
            request = received(process)
            seen.setdefault(key, set()).add((request.owner, request.flow))
    assert all(len(pairs) == 1 for pairs in seen.values()), seen
    assert seen["one-key"] != seen["another-key"]
    assert "one-key" not in str(seen.values())


def test_only_the_parent_is_answered(process: Served) -> None:
    for token in ("wrong", f"wrong.{SECRET}", f"x{SECRET}.a.b.0"):
        headers = {"Authorization": f"Bearer {token}"}
        assert process.post("/v1/chat/completions", CHAT, headers=headers).status_code == 401
    headers = {"Authorization": f"Bearer {SECRET}"}
    assert process.post("/v1/chat/completions", CHAT, headers=headers).status_code == 200


def test_members_of_our_own_are_written(process: Served, fake_server: FakeServer) -> None:
    parent = in_front(fake_server)
    body = {**CHAT, "store": True, "detect_loops": False, "priority": 3, "top_k": 7, "regex": None}
    body["structured_outputs"] = {"regex": "a+"}
    answer = parent.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.headers.get("x-headrace-ignored")) == (200, None), answer.text
    request = received(process)
    assert (request.sampling.detect_loops, request.sampling.top_k, request.priority) == (False, 7, 3)
    assert (request.format.kind, request.format.value) == ("regex", "a+")
