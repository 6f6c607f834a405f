"""Faults of the engine in a real process: what clients see, and that it recovers
without a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from headrace.models.catalog import Model
from tests.durability.servers import server
from tests.serving import eventually

RECOVERY_S = 120.0
STORY: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 40,
    "ignore_eos": True,
    "temperature": 0,
}
CONFIG = """
[paths]
data = "data"
cache = "{}"
[models]
default = "{}"
embedding = "none"
[engine]
kv_cache_bytes = "{}"
max_model_len = {}
precision = "f32"
"""


@contextmanager
def engine(
    model: Model, folder: Path, *, kv_cache_bytes: str = "64MiB", max_model_len: int = 4096
) -> Iterator[tuple[httpx2.Client, Path]]:
    """A client of a server, and the file that says how its engine fails."""
    config = CONFIG.format(model.folder.parents[1], model.gguf, kv_cache_bytes, max_model_len)
    (folder / "headrace.toml").write_text(config)
    fault = folder / "fault"
    fault.write_text("")
    with server(folder, fault=fault) as url, httpx2.Client(base_url=url, timeout=120, verify=False) as http:
        yield http, fault


def ask(http: httpx2.Client, **members: Any) -> httpx2.Response:
    return http.post("/v1/chat/completions", json={**STORY, **members})


def failure(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def counted(http: httpx2.Client, name: str) -> float:
    """The value of a counter of the model in /metrics."""
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def has_nothing_left(http: httpx2.Client) -> bool:
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    return not any(counted(http, name) for name in names)


def test_steps_that_raise_fail_their_requests_only(small_model: Model, tmp_path: Path) -> None:
    with engine(small_model, tmp_path) as (http, fault):
        expected = ask(http).json()["choices"]
        fault.write_text("step")
        with ThreadPoolExecutor(4) as pool:
            failed = list(pool.map(lambda _: ask(http), range(4)))
        assert {failure(each) for each in failed} == {(500, "engine_failed")}
        assert "the test" not in "".join(each.text for each in failed)
        assert http.get("/health").status_code == 200
        fault.write_text("")
        assert ask(http).json()["choices"] == expected
        eventually(lambda: has_nothing_left(http))


def test_an_engine_that_dies_is_loaded_again(small_model: Model, tmp_path: Path) -> None:
    """Those that run get an error, in their stream if it has begun; the next ones wait, and are answered."""
    with engine(small_model, tmp_path) as (http, fault):
        expected = ask(http).json()["choices"]
        body = {**STORY, "max_tokens": 4000, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            fault.write_text("thread")
            rest = "\n".join(lines)
        assert "engine_failed" in rest
        assert rest.rstrip().endswith("data: [DONE]")
        with ThreadPoolExecutor(4) as pool:
            answered = list(pool.map(lambda _: ask(http), range(4)))
        for each in answered:
            assert each.status_code == 200 or failure(each) == (500, "engine_failed")
        eventually(lambda: http.get("/ready").status_code == 200, within_s=RECOVERY_S)
        assert ask(http).json()["choices"] == expected
        eventually(lambda: has_nothing_left(http))
    assert "its engine has stopped; it is loaded again" in (tmp_path / "log").read_text()


def test_a_full_kv_cache_delays_but_fails_nobody(small_model: Model, tmp_path: Path) -> None:
    """The cache has room for two or three of these at once: the others wait, or give their place up."""
    with engine(small_model, tmp_path, kv_cache_bytes="544KiB", max_model_len=512) as (http, _):
        with ThreadPoolExecutor(4) as pool:
            answered = list(pool.map(lambda _: ask(http, max_tokens=200), range(4)))
        assert [each.status_code for each in answered] == [200] * 4, answered[0].text
        assert {each.json()["usage"]["completion_tokens"] for each in answered} == {200}
        assert counted(http, "vllm:num_preemptions_total") > 0
        longer = ask(http, messages=[{"role": "user", "content": "word " * 600}])
        assert failure(longer) == (400, "context_length_exceeded")
        assert ask(http).status_code == 200
        eventually(lambda: has_nothing_left(http))
