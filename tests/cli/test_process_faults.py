"""Faults of one of two engine processes: it hangs, its steps raise, its engine's thread dies. The other one
answers meanwhile, and the one with the fault takes requests again without a restart of the server.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from headrace.models.catalog import Model
from tests.cli.process import ROOT, Serving, serving
from tests.cli.test_processes import QUESTION, START_S, STORY, are_ready, pids, replicas, text_of
from tests.serving import events, eventually

HANGS_S = 6.0  # in the server under test; 60 in others
FIRST = "engine-1"
# What each process of the server imports when it starts. In an engine's process a file with its number says
# how the next steps fail; in the parent, a process that hangs is replaced sooner.
FAULTS = f"""
import sys
from pathlib import Path

def compute(self, chunks):
    import os
    fault = Path(os.environ["FAULTS"], str(os.getpid()))
    kind = fault.read_text() if fault.exists() else ""
    if kind == "thread":
        fault.unlink()
        raise SystemExit("killed by the test")
    if kind == "step":
        raise RuntimeError("out of memory, says the test")
    return real(self, chunks)

if "headrace" in sys.orig_argv or "headrace.cli.child" in sys.orig_argv:
    from headrace.backends.replicas import replica, supervision
    from headrace.engine.engine import Engine

    real, Engine._compute = Engine._compute, compute
    supervision.Program.__init__.__defaults__ = (True, 30.0, {HANGS_S})
    replica.PROBE_TIMEOUT_S = 2.0
"""


@pytest.fixture(scope="module")
def two(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "sitecustomize.py").write_text(FAULTS)
    flags = ("--processes", "2", "--resume", "same-model", "--precision", "f32")
    path = f"{folder}{os.pathsep}{ROOT}"
    with serving(*flags, cwd=folder, PYTHONPATH=path, FAULTS=str(folder)) as server:
        yield server


def fault_of(two: Serving, name: str) -> Path:
    return two.log.parent / str(pids(two)[name])


def answers(two: Serving, count: int) -> list[httpx2.Response]:
    """The answers to requests of this many conversations at once, which both processes get."""

    def ask(number: int) -> httpx2.Response:
        messages = [{"role": "system", "content": f"You are number {number}."}, *QUESTION]
        body = {**STORY, "stream": False, "max_tokens": 16, "messages": messages, "ignore_eos": True}
        return two.http.post("/v1/chat/completions", json=body, timeout=START_S)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def assert_all_answered(two: Serving) -> None:
    found = answers(two, 8)
    assert [each.status_code for each in found] == [200] * 8, [each.text for each in found]
    assert {each.json()["usage"]["completion_tokens"] for each in found} == {16}


def assert_both_work(two: Serving) -> None:
    """Both get requests, and answer them."""
    eventually(lambda: are_ready(two), within_s=START_S)
    before = {name: entry["requests"] for name, entry in replicas(two).items()}
    assert_all_answered(two)
    after = replicas(two)
    assert all(after[name]["requests"] > number for name, number in before.items())
    assert not any(entry["active"] for entry in after.values())


def test_a_process_whose_steps_raise_is_left_for_the_other(two: Serving) -> None:
    assert_both_work(two)
    fault = fault_of(two, FIRST)
    fault.write_text("step")
    before = replicas(two)[FIRST]["failures"]
    for _ in range(3):
        assert_all_answered(two)
    assert replicas(two)[FIRST]["failures"] > before, "it has had no request that failed"
    fault.unlink()
    assert_both_work(two)


def test_a_process_whose_engine_dies_takes_requests_again(two: Serving) -> None:
    """It loads the model again, or is replaced, where that takes longer than it may be away."""
    assert_both_work(two)
    fault_of(two, FIRST).write_text("thread")
    assert_all_answered(two)
    assert not fault_of(two, FIRST).exists(), "its engine had no step to die in"
    assert_both_work(two)


def test_a_process_that_hangs_is_replaced(two: Serving) -> None:
    """A stream that it has begun goes on at the other one, with the same text; requests that it has not begun
    to answer are answered there.
    """
    assert_both_work(two)
    body = {**STORY, "messages": QUESTION, "ignore_eos": True}
    whole = events(two.http.post("/v1/chat/completions", json=body))
    before = {name: entry["requests"] for name, entry in replicas(two).items()}
    with two.http.stream("POST", "/v1/chat/completions", json=body, timeout=START_S) as response:
        lines = response.iter_lines()
        read = [next(lines)]
        (busy,) = [name for name, entry in replicas(two).items() if entry["requests"] > before[name]]
        process = pids(two)[busy]
        os.kill(process, signal.SIGSTOP)
        assert_all_answered(two)
        read += lines
    found = events(httpx2.Response(200, text="\n".join(read) + "\n"))
    assert text_of(found) == text_of(whole)
    assert f"{busy} did not answer any more and was killed" in two.log.read_text()
    assert_both_work(two)
    assert pids(two)[busy] != process
