"""An engine that fails under a request: that request ends with an error, the others go on. An engine that
dies: all end.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from headrace.backends.engine import EngineBackend
from headrace.engine.batch import Batch
from headrace.engine.engine import Engine
from headrace.engine.runner import Runner
from headrace.engine.sequence import Sequence
from headrace.models.catalog import Model
from headrace.text.tokenizer import Tokenizer
from tests.conftest import serving_model
from tests.engine.fakes import PassingRunner
from tests.serving import Served, events, eventually

PATH = "/v1/completions"
TRAP = "zebra"


class Trapped(PassingRunner):
    """A real runner that fails in one way or another under sequences that hold the trap's tokens."""

    def __init__(self, runner: Runner, trap: list[int]) -> None:
        super().__init__(runner)
        self.trap = trap
        self.failure: BaseException | None = RuntimeError("out of memory: secret")
        self.after = 0  # tokens that are generated before it springs

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        logits = self.runner.forward(batch)
        if self.failure is not None and any(map(self.holds, batch.sequences)):
            raise self.failure
        for sequence, rows in batch.sampled:
            if self.holds(sequence):
                logits[rows] = np.nan
        return logits

    def holds(self, sequence: Sequence) -> bool:
        prompt, size = sequence.tokens[: sequence.num_prompt], len(self.trap)
        starts = range(len(prompt) - size + 1)
        sprung = any(prompt[start : start + size] == self.trap for start in starts)
        return sprung and sequence.num_generated >= self.after


@pytest.fixture(scope="module")
def failing(small_model: Model) -> Iterator[Served]:
    with serving_model(small_model, max_model_len=512) as served:
        set_trap(served, small_model)
        yield served


def set_trap(server: Served, model: Model) -> None:
    engine_of(server).runner = Trapped(engine_of(server).runner, Tokenizer(model.folder).encode(" " + TRAP))


def trap_of(server: Served) -> Trapped:
    runner = engine_of(server).runner
    assert isinstance(runner, Trapped)
    return runner


def engine_of(server: Served) -> Engine:
    assert isinstance(server.backend, EngineBackend)
    return server.backend.engine


def body(subject: str = "dog", **members: Any) -> dict[str, Any]:
    prompt = f"Once there was a {subject} who"
    return {"model": "small", "prompt": prompt, "max_tokens": 40, "ignore_eos": True, **members}


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("failure", [RuntimeError("out of memory: secret"), MemoryError(), None])
def test_failing_request_is_reported_and_the_others_complete(
    failing: Served, failure: Exception | None, after: int
) -> None:
    trap_of(failing).failure, trap_of(failing).after = failure, after

    def ask(subject: str) -> Any:
        return failing.post(PATH, body(subject))

    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(ask, "dog") for _ in range(5)]
        bad = [pool.submit(ask, TRAP) for _ in range(2)]
    for response in (each.result() for each in good):
        assert response.json()["usage"]["completion_tokens"] == 40
    for response in (each.result() for each in bad):
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "engine_failed"
        assert "secret" not in response.text
    assert failing.get("/health").status_code == 200
    eventually(lambda: not engine_of(failing).has_work)
    assert engine_of(failing).pool.num_held == 0
    engine_of(failing).check()


@pytest.mark.parametrize("n", [1, 3])
def test_failing_stream_ends_with_an_error(failing: Served, n: int) -> None:
    trap_of(failing).failure, trap_of(failing).after = RuntimeError("out of memory"), 5
    *chunks, failure, done = events(failing.post(PATH, body(TRAP, stream=True, n=n)))
    assert chunks
    assert all("error" not in chunk for chunk in chunks)
    assert (failure["error"]["code"], done) == ("engine_failed", "[DONE]")
    prompt = body(TRAP)["prompt"]
    with failing.client() as client:
        stream = client.completions.create(model="small", prompt=prompt, n=n, stream=True)
        with pytest.raises(openai.APIError, match="could not compute"):
            list(stream)
    eventually(lambda: not engine_of(failing).pool.num_held)


def test_death_of_the_engine_is_reported_to_everybody_at_once(small_model: Model) -> None:
    with serving_model(small_model, max_num_seqs=4) as server:
        set_trap(server, small_model)
        trap_of(server).failure, trap_of(server).after = SystemExit("killed"), 1000

        def wait(number: int) -> Any:
            subject = "dog" if number else TRAP
            return server.post(PATH, body(subject, max_tokens=4000, stream=number % 2 == 0))

        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(wait, 0)]
            eventually(lambda: engine_of(server).scheduler.running)
            waiting += [pool.submit(wait, number) for number in range(1, 8)]
            eventually(lambda: engine_of(server).scheduler.num_waiting == 4)
        check_errors([each.result() for each in waiting])
        assert server.get("/health").status_code == server.get("/ready").status_code == 503
        late = server.post(PATH, body())
        assert (late.status_code, late.json()["error"]["code"]) == (500, "engine_failed")
        assert server.get("/v1/models").status_code == 200
        eventually(lambda: not server.gateway.num_active)


def check_errors(responses: list[Any]) -> None:
    for number, response in enumerate(responses):
        if number % 2 or response.status_code != 200:  # a stream that had not begun tells it by its status
            assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_failed")
        else:
            *_, failure, done = events(response)
            assert (failure["error"]["code"], done) == ("engine_failed", "[DONE]")
