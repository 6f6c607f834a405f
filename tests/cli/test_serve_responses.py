"""What lasts, in a real process: WebSockets are served, and what runs in the background is drained."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.store import Store
from tests.cli.process import Serving, serving
from tests.conftest import FakeServer
from tests.serving import eventually

CONFIG = """
[models]
default = ""
[providers.up]
kind = "openai"
base_url = "{url}/v1"
"""


def test_background_response_ends_before_the_process(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["tick "] * 40, id="m", delay_s=0.05)
    (tmp_path / "headrace.toml").write_text(CONFIG.format(url=fake_server(backend).url))
    with serving(cwd=tmp_path) as server:
        url = server.url.replace("http", "ws") + "/v1/responses"
        with connect(url, proxy=None, open_timeout=60) as idle:
            idle.send("{}")
            assert json.loads(idle.recv(60))["status"] == 400
            id = _begin_response(server)
            eventually(lambda: backend.num_active)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
    stored = asyncio.run(_stored(id))
    assert (stored["status"], stored["usage"]["output_tokens"]) == ("completed", 40)


def _begin_response(server: Serving) -> str:
    body = {"model": "up:m", "input": "hi", "background": True}
    answer = server.http.post("/v1/responses", json=body).json()
    assert answer["status"] == "queued"
    return str(answer["id"])


async def _stored(id: str) -> dict[str, Any]:
    config = Config()
    store = Store(config.store, config.paths.data)
    await store.start()
    try:
        return dict((await store.responses.get("anonymous", id)).body)
    finally:
        await store.aclose()
