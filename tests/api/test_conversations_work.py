"""Where the items of a conversation are read: small ones on the event loop, large ones in another thread."""

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
from headrace.wire.conversations import new_items
from tests.serving import Served, serving


@pytest.fixture
def threads() -> Iterator[list[int]]:
    """The threads that start after this and read the items of a body."""
    seen: list[int] = []

    def saw(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is new_items.__code__:
            seen.append(threading.get_ident())

    threading.setprofile(saw)
    yield seen
    threading.setprofile(None)


def loop_thread(served: Served) -> int:
    async def ident() -> int:
        return threading.get_ident()

    return asyncio.run_coroutine_threadsafe(ident(), served.loop).result(60)


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/conversations/{}/items"])
def test_many_parts_are_read_beside_other_requests(tmp_path: Path, threads: list[int], path: str) -> None:
    config = Config.model_validate({"paths": {"data": str(tmp_path)}})
    with serving(create_app(config, [FakeBackend(["x"])])) as served:
        id = served.post("/v1/conversations", {}).json()["id"]
        threads.clear()
        for count, is_on_loop in ((1, True), (2000, False)):
            content = [{"type": "input_text", "text": "water"}] * count
            body = {"items": [{"role": "user", "content": content}] * 2}
            response = served.post(path.format(id), body)
            assert response.status_code == 200, response.text
            assert (loop_thread(served) in threads) == is_on_loop
            threads.clear()
