"""Our engine in processes of its own: one that dies costs no request, and none outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.processes import cpus
from tests.cli.process import Serving, serving
from tests.serving import events, eventually

START_S = 240.0
STORY: dict[str, Any] = {"model": DEFAULT_MODEL, "temperature": 0, "max_tokens": 96, "stream": True}
QUESTION = [{"role": "user", "content": "Tell me a story about a river."}]


@pytest.fixture(scope="module")
def two(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("processes")
    flags = ("--processes", "2", "--resume", "same-model", "--precision", "f32")
    with serving(*flags, cwd=folder) as server:
        yield server


def replicas(server: Serving) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in server.http.get("/v1/admin/replicas").json()["data"]}


def are_ready(server: Serving) -> bool:
    return all(entry["state"] == "ready" for entry in replicas(server).values())


def pids(server: Serving) -> dict[str, int]:
    """The processes by the names that their log lines have."""
    lines = [line for line in server.log.read_text().splitlines() if " is ready at " in line]
    words = [line.partition(": ")[2].split() for line in lines]
    return {word[0]: int(word[-1].rstrip(")")) for word in words}


def text_of(found: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for one in found[:-1] for choice in one["choices"])


def until_killed(two: Serving, name: str, before: str) -> None:
    """Wait until the server has noticed the end of a process since its log was this."""
    line = f"{name} ended (exit code -9)"
    eventually(lambda: two.log.read_text().count(line) > before.count(line), within_s=START_S)


def killed_in_between(two: Serving, body: dict[str, Any], name: str) -> list[Any]:
    """The events of a stream whose process, of this name, is killed after the first of them. It is tried
    again where the process was faster.
    """
    for _ in range(5):
        eventually(lambda: are_ready(two), within_s=START_S)
        before = two.log.read_text()
        with two.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            read = [next(lines)]
            os.kill(pids(two)[name], signal.SIGKILL)
            read += lines
        until_killed(two, name, before)
        if two.log.read_text().count("goes on at another") > before.count("goes on at another"):
            break
    found = [line.removeprefix("data: ") for line in read if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


def test_a_stream_goes_on_when_its_process_is_killed(two: Serving) -> None:
    """The text is the same, and the usage counts each token once."""
    body = {**STORY, "messages": QUESTION, "stream_options": {"include_usage": True}}
    whole = events(two.http.post("/v1/chat/completions", json=body))
    (busy,) = [name for name, entry in replicas(two).items() if entry["requests"]]
    resumed = killed_in_between(two, body, busy)
    assert "goes on at another replica" in two.log.read_text()
    assert text_of(resumed) == text_of(whole)
    assert resumed[-2]["usage"]["prompt_tokens"] == whole[-2]["usage"]["prompt_tokens"]
    assert resumed[-2]["usage"]["completion_tokens"] == whole[-2]["usage"]["completion_tokens"] == 96


def test_no_request_is_lost_when_a_process_is_killed(two: Serving) -> None:
    eventually(lambda: are_ready(two), within_s=START_S)
    answers: list[tuple[int, int]] = []

    def ask(number: int) -> None:
        messages = [{"role": "system", "content": f"You are number {number}."}, *QUESTION]
        body = {**STORY, "stream": False, "max_tokens": 48, "messages": messages, "ignore_eos": True}
        answer = two.http.post("/v1/chat/completions", json=body)
        answers.append((answer.status_code, answer.json().get("usage", {}).get("completion_tokens")))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(entry["active"] for entry in replicas(two).values()) >= 2, within_s=60)
    before = two.log.read_text()
    os.kill(pids(two)["engine-1"], signal.SIGKILL)
    for thread in threads:
        thread.join()
    until_killed(two, "engine-1", before)
    assert answers == [(200, 48)] * 8


def test_the_turns_of_a_conversation_find_each_other_in_the_cache(two: Serving) -> None:
    """Five conversations on two processes: each turn finds the one before, less its last block."""
    eventually(lambda: are_ready(two), within_s=START_S)
    for number in range(5):
        messages = [{"role": "system", "content": f"{number}: you answer in one word. " * 8}]
        before = 0
        for turn in range(3):
            messages.append({"role": "user", "content": f"Is {turn} a number?"})
            body = {**STORY, "stream": False, "max_tokens": 2, "messages": messages}
            answer = two.http.post("/v1/chat/completions", json=body).json()
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
            usage = answer["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= before - 64, usage
            before = usage["prompt_tokens"]


def test_members_that_only_we_have_reach_the_processes(two: Serving) -> None:
    body = {"model": DEFAULT_MODEL, "input": "Yes or no?", "max_output_tokens": 4, "store": False}
    assert two.http.post("/v1/responses", json=body).status_code == 200
    chat = {**STORY, "stream": False, "messages": QUESTION, "structured_outputs": {"choice": ["red", "blue"]}}
    relayed = two.http.post("/v1/chat/completions", json=chat).json()
    translated = two.http.post("/v1/chat/completions", json={**chat, "store": True}).json()
    for answer in (relayed, translated):
        assert answer["choices"][0]["message"]["content"] in ("red", "blue")
    tokens = two.http.post("/tokenize", json={"model": DEFAULT_MODEL, "prompt": "Hello world"}).json()
    assert tokens["count"] == 2
    text = two.http.post("/detokenize", json={"model": DEFAULT_MODEL, "tokens": tokens["tokens"]}).json()
    assert text["prompt"] == "Hello world"


def test_processes_end_with_their_parent(two: Serving) -> None:
    """The last test of the module: the server is gone after it."""
    eventually(lambda: are_ready(two), within_s=START_S)
    left = pids(two).values()
    two.process.kill()
    eventually(lambda: not any(map(_lives, left)), within_s=60)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_sockets_are_shared_out(tmp_path: Path) -> None:
    for number, text in enumerate(("0-3,8", "4-7\n")):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(text)
    assert cpus(0, 2, tmp_path) == cpus(2, 4, tmp_path) == [0, 1, 2, 3, 8]
    assert cpus(1, 2, tmp_path) == [4, 5, 6, 7]
    assert cpus(0, 3, tmp_path) == [], "three processes on two sockets: each may use all cores"
    assert cpus(0, 1, tmp_path / "node0") == []
