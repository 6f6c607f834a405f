"""A caller who floods the server does not keep others from being answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from headrace.app import build_backends, create_app
from headrace.config import Config
from headrace.models.catalog import Model
from tests.serving import Served, eventually, serving

CHAT = "/v1/chat/completions"
FLOOD = 100


@pytest.fixture(scope="module")
def keyed(default_model: Model) -> Iterator[Served]:
    """Four may run, 28 may wait."""
    config = Config.model_validate(
        {
            "engine": {"kv_cache_bytes": "256MiB", "disk_cache_bytes": 0, "max_num_seqs": 4, "max_queue": 28},
            "server": {"api_keys": ["flood", "other"], "admin_keys": ["boss"]},
        }
    )
    with serving(create_app(config, build_backends(config, [default_model]))) as served:
        yield served


def ask(server: Served, key: str, **members: object) -> httpx2.Response:
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "What color is the sky?"}],
        "max_tokens": 2,
        **members,
    }
    return httpx2.post(server.url + CHAT, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=120)


class Flood:
    """FLOOD requests of one key in the air, each sent again when it is answered, until the block ends."""

    def __init__(self, server: Served, **members: object) -> None:
        self._server, self._members = server, members
        self._is_over = threading.Event()
        self.statuses: list[int] = []

    def __enter__(self) -> Flood:
        self._pool = ThreadPoolExecutor(FLOOD)
        self._tasks = [self._pool.submit(self._send) for _ in range(FLOOD)]
        eventually(lambda: self._server.gateway.num_active >= 32)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._pool.shutdown()
        for task in self._tasks:
            task.result()

    def _send(self) -> None:
        while not self._is_over.is_set():
            status = ask(self._server, "flood", **self._members).status_code
            self.statuses.append(status)
            if status == 503:
                self._is_over.wait(0.05)


def check(server: Served, members: dict[str, object], send: Callable[[], httpx2.Response]) -> None:
    with Flood(server, **members) as flood:
        for _ in range(10):
            before = len([status for status in flood.statuses if status == 200])
            answer = send()
            assert answer.status_code == 200, answer.text
            overtaken = len([status for status in flood.statuses if status == 200]) - before
            # the flood has 32 requests in the engine: without turns, most of them would come first
            assert overtaken <= 12
    assert 503 in flood.statuses  # it was one
    assert 200 in flood.statuses


def test_the_other_is_answered_while_one_has_a_hundred_requests_in_the_air(keyed: Served) -> None:
    check(keyed, {"max_tokens": 12}, lambda: ask(keyed, "other"))


def test_a_flood_of_long_answers_gives_up_a_seat(keyed: Served) -> None:
    members: dict[str, object] = {"max_tokens": 300, "ignore_eos": True, "detect_loops": False}
    check_first = ask(keyed, "other")
    assert check_first.status_code == 200
    with Flood(keyed, **members) as flood:
        for _ in range(3):
            before = len(flood.statuses)
            assert ask(keyed, "other").status_code == 200
            done = [status for status in flood.statuses[before:] if status == 200]
            assert len(done) <= 4  # it did not wait for the flood's queue
        flood._is_over.set()


def test_a_callers_priority_only_makes_it_wait(keyed: Served) -> None:
    """A priority of -2^62 let nobody else be answered."""
    with Flood(keyed, priority=-(2**62), max_tokens=12) as flood:
        for _ in range(5):
            assert ask(keyed, "other").status_code == 200
    assert 200 in flood.statuses


def test_flex_is_served_after_the_others(keyed: Served) -> None:
    answer = ask(keyed, "other", service_tier="flex")
    assert answer.status_code == 200
    assert "x-headrace-ignored" not in answer.headers
    with Flood(keyed, service_tier="flex", max_tokens=12):
        for _ in range(5):
            assert ask(keyed, "other").status_code == 200
