"""Many callers at once, some of whom leave: every stream is in order, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import httpx2

from headrace.backends.fake import FakeBackend
from tests.api.responses_client import PATH, WEATHER, script
from tests.conftest import FakeServer
from tests.serving import Served, eventually
from tests.wire.stream_order import read_stream

CALLERS, TURNS = 8, 12


class Moody(FakeBackend):
    """Answers anything, at its own pace, and fails at times."""

    async def _events(self, num_choices: int) -> Any:
        for event in script(random.Random()):
            await asyncio.sleep(random.random() * 0.01)
            if random.random() < 0.01:
                raise RuntimeError("in a bad mood")
            yield event


def test_nothing_is_left_behind(fake_server: FakeServer) -> None:
    backend = Moody([])
    server = fake_server(backend)
    conversations = [server.post("/v1/conversations", {}).json()["id"] for _ in range(3)]
    faults: list[str] = []
    callers = [
        threading.Thread(target=call, args=(server, random.Random(seed), conversations, faults))
        for seed in range(CALLERS)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not faults
    eventually(lambda: not server.gateway.num_active)
    assert not backend.num_active
    backend.script = ["done"]
    for conversation in conversations:
        eventually(lambda id=conversation: respond(server, {"conversation": id}).status_code != 400)  # type: ignore[misc]  # bound now
    verifying = server.app.state.store.verify()
    assert not asyncio.run_coroutine_threadsafe(verifying, server.loop).result(60)


def call(server: Served, dice: random.Random, conversations: list[str], faults: list[str]) -> None:
    for _ in range(TURNS):
        body = {"background": dice.random() < 0.3, "tools": [WEATHER], "stream": True}
        if dice.random() < 0.5:
            body["conversation"] = dice.choice(conversations)
        try:
            follow(server, body, dice)
        except AssertionError as exc:
            faults.append(repr(exc))


def follow(server: Served, body: dict[str, Any], dice: random.Random) -> None:
    sent = {"model": "fake", "input": "hi", **body}
    patience = dice.choice((500, 3000, 10**9))  # bytes until it leaves
    with (
        httpx2.Client(timeout=30, verify=False) as http,
        http.stream("POST", server.url + PATH, json=sent) as response,
    ):
        seen = b""
        for piece in response.iter_raw():
            seen += piece
            if len(seen) > patience:
                return
    if response.status_code == 200:
        read_stream([seen])
    else:
        assert response.status_code in (400, 500), seen


def respond(server: Served, body: dict[str, Any]) -> httpx2.Response:
    return server.post(PATH, {"model": "fake", "input": "hi", **body})
