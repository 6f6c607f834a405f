"""Where a body is validated: on the event loop if that is little work, else in another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.offload import SMALL, _pool
from headrace.wire.parameters import parse
from tests.api.test_websocket import ask, connected
from tests.serving import Served, serving

USER = {"role": "user", "content": "Hi"}
MANY: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("/v1/chat/completions", {"messages": [USER] * 1500}),
    "biases": (
        "/v1/chat/completions",
        {"messages": [USER], "logit_bias": dict.fromkeys(map(str, range(4000)), 1)},
    ),
    "unknown members": (
        "/v1/chat/completions",
        {"messages": [USER], **{f"m{number}": 1 for number in range(4000)}},
    ),
    "token ids": ("/v1/completions", {"prompt": list(range(9000))}),
    "prompts": ("/v1/completions", {"prompt": ["x"] * 1024}),
    "items": ("/v1/responses", {"input": [USER] * 1500}),
    "blocks": ("/v1/messages", {"max_tokens": 1, "messages": [USER] * 1500}),
    "Ollama's messages": ("/api/chat", {"messages": [USER] * 1500}),
}


@pytest.fixture
def threads() -> Iterator[list[int]]:
    """The threads that start after this and validate a body."""
    seen: list[int] = []

    def saw(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is parse.__code__:
            seen.append(threading.get_ident())

    threading.setprofile(saw)
    _pool.cache_clear()  # a profile is of threads that start after it
    yield seen
    threading.setprofile(None)
    _pool.cache_clear()


def loop_thread(served: Served) -> int:
    async def ident() -> int:
        return threading.get_ident()

    return asyncio.run_coroutine_threadsafe(ident(), served.loop).result(60)


def test_a_short_body_of_many_values_is_validated_beside_other_requests(
    tmp_path: Path, threads: list[int]
) -> None:
    config = Config.model_validate({"paths": {"data": str(tmp_path)}})
    with serving(create_app(config, [FakeBackend(["x"])])) as served:
        served.post("/v1/chat/completions", {"model": "fake", "messages": [USER]})
        assert threads == [loop_thread(served)]
        for name, (path, members) in MANY.items():
            threads.clear()
            response = served.post(path, {"model": "fake", **members})
            assert len(response.request.content) < SMALL
            assert threads, name
            assert loop_thread(served) not in threads, name


def test_so_is_a_frame_of_many_values(tmp_path: Path, threads: list[int]) -> None:
    config = Config.model_validate({"paths": {"data": str(tmp_path)}})
    with serving(create_app(config, [FakeBackend(["x"])])) as served, connected(served) as socket:
        for input, is_on_loop in (([USER], True), ([USER] * 1500, False)):
            assert ask(socket, input=input)[-1]["type"] == "response.completed"
            assert (loop_thread(served) in threads) == is_on_loop
            threads.clear()
