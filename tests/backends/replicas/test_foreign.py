"""Servers like vLLM that we start ourselves: awaited, named in the log, restarted, and gone when we are."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headrace.app import create_app
from headrace.backends.replicas import Replica, Replicas, started
from headrace.backends.replicas.supervision import program
from headrace.backends.vllm import SGLangBackend, VLLMBackend
from headrace.breaker import Breaker
from headrace.config import Config, ProviderConfig
from headrace.types import Conversation, Format, GenerateRequest, Message
from tests.serving import Served, eventually, serving


class StandIn(VLLMBackend):
    module = "tests.backends.replicas.stand_in"


CHAT = {"model": "own:m", "messages": [{"role": "user", "content": "hi"}]}


@contextmanager
def standing_in(*args: str) -> Iterator[Served]:
    provider = ProviderConfig(kind="vllm", python=sys.executable, args=("--model", "m", *args))
    config = Config.model_validate({"models": {"default": ""}, "providers": {"own": provider}})
    with serving(create_app(config, [started("own", provider, StandIn)])) as served:
        yield served


def state(served: Served) -> str:
    return str(served.get("/v1/admin/replicas").json()["data"][0]["state"])


def pid(served: Served) -> int | None:
    """The process that answers; None: none does."""
    answer = served.post("/v1/chat/completions", CHAT)
    return int(answer.json()["id"].removeprefix("pid-")) if answer.status_code == 200 else None


def test_it_is_awaited_used_restarted_and_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace")
    ready = tmp_path / "ready"
    with standing_in("--slow", str(ready)) as served:
        waiting = served.get("/ready")
        assert (waiting.status_code, waiting.json()) == (503, {"status": "starting", "starting": ["own"]})
        assert served.get("/health").status_code == 200
        refused = served.post("/v1/chat/completions", CHAT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        ready.touch()
        eventually(lambda: served.get("/ready").status_code == 200, within_s=60)
        first = pid(served)
        assert first is not None
        eventually(lambda: [info.id for info in served.backend.models()] == ["m"], within_s=60)
        end = {**CHAT, "messages": [{"role": "user", "content": "end"}]}
        assert served.post("/v1/chat/completions", end).status_code in (502, 503)
        # Until a probe has failed, the state is that of the process that has ended.
        eventually(lambda: pid(served) not in (None, first) and state(served) == "ready", within_s=60)
        second = pid(served)
        assert second is not None
        assert served.get("/ready").status_code == 200, "it was ready before"
    eventually(lambda: not psutil.pid_exists(second), within_s=30)
    assert "own: the stand-in loads m" in caplog.text
    assert "own ended (exit code 3)" in caplog.text


def test_one_that_does_not_start_is_tried_again_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with standing_in("--crash") as served:
        eventually(lambda: "it is started again in" in caplog.text, within_s=60)
        (listed,) = served.get("/v1/admin/replicas").json()["data"]
        assert listed["state"] == "starting"
        assert "the stand-in loads m" in listed["trouble"]
        assert served.get("/ready").json()["status"] == "starting"


def test_one_that_hangs_is_killed_and_started_again() -> None:
    """Takes some seconds: a probe waits five for its answer."""
    config = ProviderConfig(kind="vllm", api_key="key")
    replica = Replica("own", StandIn("own", config, "key"), Breaker(time.monotonic))
    started = program("own", sys.executable, StandIn.module, ("--model", "m"), "key")
    backend = Replicas("own", [replica], {replica: replace(started, hangs_s=0.1)})
    tables = {"models": {"default": ""}, "providers": {"own": config}}
    with serving(create_app(Config.model_validate(tables), [backend])) as served:
        eventually(lambda: state(served) == "ready", within_s=60)
        first = pid(served)
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        eventually(lambda: not psutil.pid_exists(first), within_s=60)
        eventually(lambda: state(served) == "ready", within_s=60)
        assert pid(served) != first


def test_their_own_forms_are_written() -> None:
    config = ProviderConfig(kind="vllm")
    chat = Conversation((Message("user", "hi"),))
    regex = GenerateRequest("m", chat, format=Format("regex", "a+"), priority=2)
    _, body = VLLMBackend("v", config, None).write(regex)
    assert (body["structured_outputs"], body["priority"]) == ({"regex": "a+"}, 2)
    _, body = SGLangBackend("s", config, None).write(regex)
    assert body["regex"] == "a+"
    _, body = VLLMBackend("v", config, None).write(GenerateRequest("m", chat, format=Format("json_object")))
    assert body["response_format"] == {"type": "json_object"}
