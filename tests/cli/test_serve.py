from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace.backends.fake import FakeBackend
from headrace.models.catalog import DEFAULT_MODEL, Model
from tests.cli.process import Serving, headrace, of, serving
from tests.conftest import FakeServer
from tests.serving import events, eventually

STORY = {"model": DEFAULT_MODEL, "prompt": "Once", "ignore_eos": True, "temperature": 0}


@contextmanager
def streaming(server: Serving, max_tokens: int) -> Iterator[httpx2.Response]:
    """A stream of the small model that has started."""
    body = {**STORY, "model": "small", "max_tokens": max_tokens, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        yield response


def drained(server: Serving) -> bool:
    return server.post({**STORY, "model": "small", "max_tokens": 1}).status_code == 503


def rest_of(response: httpx2.Response) -> list[Any]:
    response.read()
    return events(response)


def test_it_serves_and_tells_how_to_try_it(default_model: Model, tmp_path: Path) -> None:
    with serving("--api-key", "k1", "--api-key", "k2", cwd=tmp_path) as server:
        for text in (DEFAULT_MODEL, "64 MiB", "device", "curl", "Authorization", "/docs"):
            assert text in server.announcement
        assert server.post(STORY).status_code == 401
        headers = {"Authorization": "Bearer k2", "X-Request-ID": "my-request-1"}
        answer = server.post({**STORY, "max_tokens": 3}, headers)
        assert answer.json()["usage"]["completion_tokens"] == 3
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
    log = server.log.read_text()
    assert re.search(r"\[my-request-1\] headrace.access: POST /v1/completions 200 \d+ ms", log)
    assert "Traceback" not in log
    assert "k2" not in log


def test_sigterm_lets_what_runs_finish_and_refuses_what_comes(small_model: Model, tmp_path: Path) -> None:
    with serving(*of(small_model), cwd=tmp_path) as server, streaming(server, 3000) as response:
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: drained(server))
        refused = server.post({**STORY, "model": "small"})
        assert refused.json()["error"]["code"] == "server_is_overloaded"
        assert refused.headers["retry-after"]
        assert server.http.get("/ready").json() == {"status": "draining"}
        assert server.http.get("/health").status_code == 200
        *_, last, done = rest_of(response)
        assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_what_runs_longer_than_the_drain_ends_with_an_error(small_model: Model, tmp_path: Path) -> None:
    drain = ("--drain-seconds", "0.1")
    with serving(*of(small_model), *drain, cwd=tmp_path) as server, streaming(server, 4000) as response:
        server.process.send_signal(signal.SIGTERM)
        *chunks, failure, done = rest_of(response)
        assert chunks
        assert (failure["error"]["code"], done) == ("server_is_overloaded", "[DONE]")
        assert server.process.wait(60) == 0


def test_second_signal_ends_at_once(small_model: Model, tmp_path: Path) -> None:
    drain = ("--drain-seconds", "60")
    with serving(*of(small_model), *drain, cwd=tmp_path) as server, streaming(server, 4000) as response:
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: drained(server))
        server.process.send_signal(signal.SIGINT)
        assert "error" in rest_of(response)[-2], "it did not drain until the answer was whole"
        assert server.process.wait(60) == 0


def test_port_in_use_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = headrace("serve", "--port", port, cwd=tmp_path)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "no API key is set"),
        (["--host", "no.such.host.invalid", "--no-auth"], "cannot listen on no.such.host.invalid"),
        (["no-such-model"], "no-such-model"),
        (["/no/such/file.gguf"], "/no/such/file.gguf"),
        (["--config", "none.toml"], "none.toml does not exist"),
        (["--port", "high"], "server.port = 'high' (flag)"),
    ],
)
def test_mistake_stops_the_start_with_its_reason(tmp_path: Path, arguments: list[str], reason: str) -> None:
    done = headrace("serve", "--port", "0", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_gateway_without_a_local_model_is_served(fake_server: FakeServer, tmp_path: Path) -> None:
    upstream = fake_server(FakeBackend(["Hello", " world"], id="m"))
    (tmp_path / "headrace.toml").write_text(
        f"""
[models]
default = ""
[providers.up]
kind = "openai"
base_url = "{upstream.url}/v1"
api_key = "very-secret"
[routes.fast]
targets = ["up:m"]
"""
    )
    with serving(cwd=tmp_path) as server:
        for text in ("remote  up (openai at http://", "route   fast → up:m", "/v1/models"):
            assert text in server.announcement
        assert "device" not in server.announcement
        for model in ("up:m", "fast"):
            answer = server.post({"model": model, "prompt": "hi"})
            assert answer.json()["choices"][0]["text"] == "Hello world"
            assert answer.headers["x-headrace-backend"] == "up"
        maps = Path(f"/proc/{server.process.pid}/maps")
        assert not maps.exists() or "openvino" not in maps.read_text()
    assert "secret" not in server.announcement + server.log.read_text()


def test_route_to_a_model_that_is_not_served_stops_the_start(tmp_path: Path) -> None:
    text = "[models]\ndefault = ''\n[routes.fast]\ntargets = ['gone']\n"
    (tmp_path / "headrace.toml").write_text(text)
    done = headrace("serve", "--port", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "routes.fast.targets.0 = 'gone'" in done.stderr
    assert "Traceback" not in done.stderr
