"""A time limit ends the preparation of a request as a hang-up does: work that waits never starts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.app import create_app
from headrace.backends.anthropic.request import to_body
from headrace.backends.anthropic.thinking import of_name
from headrace.backends.fake import FakeBackend
from headrace.backends.openai import OpenAIBackend
from headrace.backends.writing import Writing
from headrace.config import Config, ProviderConfig
from headrace.finite import dumped_pieces
from headrace.offload import NUM_THREADS, SMALL, Unwanted, aside, while_wanted
from headrace.turns.dedupe import new_messages
from headrace.wire import chat
from headrace.wire.items import of_chat, to_items, to_messages
from headrace.wire.limits import checked_volume
from headrace.wire.parameters import uses_of
from headrace.wire.tables import CHAT
from tests.serving import Served, serving
from tests.wire import asking
from tests.wire.samples import SAID as SAID_BY_MODEL
from tests.wire.samples import USER

LARGE = "x " * SMALL
SAID = [{"role": "user", "content": LARGE}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "fake", "messages": SAID},
    "/v1/messages": {"model": "fake", "messages": SAID, "max_tokens": 5},
    "/v1/messages/count_tokens": {"model": "fake", "messages": SAID},
    "/v1/completions": {"model": "fake", "prompt": LARGE},
    "/v1/responses": {"model": "fake", "input": LARGE},
    "/v1/responses/input_tokens": {"model": "fake", "input": LARGE},
    "/v1/responses/compact": {"model": "fake", "input": LARGE},
    "/v1/embeddings": {"model": "fake", "input": LARGE},
    "/tokenize": {"prompt": LARGE},
    "/v1/conversations": {"items": [{"type": "message", **SAID[0]}]},
}


@contextmanager
def busy(server: Served) -> Iterator[None]:
    """All threads for long work are held until the body ends."""
    hold = threading.Event()
    streams = [
        asyncio.run_coroutine_threadsafe(aside(SMALL + 1, hold.wait), server.loop) for _ in range(NUM_THREADS)
    ]
    try:
        yield
    finally:
        hold.set()
        for each in streams:
            each.result()


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend("Hello")


@pytest.fixture(scope="module")
def server(backend: FakeBackend) -> Iterator[Served]:
    config = Config.model_validate({"server": {"request_timeout_s": 0.3}})
    with serving(create_app(config, [backend])) as running:
        yield running


@pytest.mark.parametrize("path", BODIES)
def test_what_waits_ends_at_the_servers_limit(server: Served, backend: FakeBackend, path: str) -> None:
    with busy(server):
        response = server.post(path, BODIES[path])
    assert response.status_code == 504, response.text
    assert "0.3 s" in response.json()["error"]["message"]
    assert not backend.requests


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_the_callers_limit_counts_from_the_arrival(server: Served, backend: FakeBackend, path: str) -> None:
    response = server.post(path, {**BODIES[path], "timeout": 1e-9})
    assert (response.status_code, response.json()["error"]["param"]) == (504, "timeout")
    assert not backend.requests


CHAT_BODY = asking.parsed("chat/completions", {"messages": [USER, SAID_BY_MODEL, USER]})
RESPONSE_BODY = asking.parsed("responses", {"input": [{"type": "message", **USER}]})
ITEMS = to_items(RESPONSE_BODY.input, "input")
REQUEST = chat.to_request(CHAT_BODY)
OPENAI = OpenAIBackend("p", ProviderConfig(kind="openai"), None)
STEPS: dict[str, Callable[[], object]] = {
    "count": lambda: checked_volume(b"{}"),
    "features": lambda: uses_of(CHAT_BODY, CHAT),
    "read a chat": lambda: chat.to_request(CHAT_BODY),
    "read messages": lambda: asking.request("messages", {"messages": [USER]}),
    "read items": lambda: to_items(RESPONSE_BODY.input, "input"),
    "items to messages": lambda: to_messages(ITEMS),
    "chat to items": lambda: of_chat(CHAT_BODY.messages),
    "compare": lambda: new_messages(ITEMS, [ITEMS]),
    "write for OpenAI": lambda: OPENAI.write(REQUEST, Writing(REQUEST)),
    "write for Anthropic": lambda: to_body(REQUEST, of_name("m")),
    "write JSON": lambda: list(while_wanted(dumped_pieces({"a": 1}))),
}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_asks_whether_it_is_still_wanted(step: str) -> None:
    ended: list[type[BaseException] | None] = []

    async def leave_in_the_middle() -> None:
        started, left, over = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            left.wait()
            try:
                STEPS[step]()
                ended.append(None)
            except Unwanted:
                ended.append(Unwanted)
            finally:
                over.set()

        task = asyncio.ensure_future(aside(SMALL + 1, work))
        await asyncio.to_thread(started.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left.set()
        await asyncio.to_thread(over.wait)

    asyncio.run(leave_in_the_middle())
    assert ended == [Unwanted]
