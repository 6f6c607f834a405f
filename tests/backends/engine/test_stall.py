"""An engine that has work and finishes no step is not alive, until it goes on."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
from numpy.typing import NDArray

from headrace.backends.engine.thread import EngineThread
from headrace.engine.batch import Batch
from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.models.catalog import Model
from tests.conftest import serving_model
from tests.engine.fakes import FakeRunner
from tests.serving import eventually


class Gate(FakeRunner):
    """A runner whose passes wait while the gate is closed."""

    def __init__(self) -> None:
        super().__init__(num_blocks=100)
        self.is_open = threading.Event()
        self.is_open.set()

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        assert self.is_open.wait(60)
        return super().forward(batch)


def test_time_without_a_step_counts_only_while_there_is_work() -> None:
    async def run() -> None:
        gate, ended = Gate(), asyncio.Event()

        def deliver(outputs: list[Output]) -> None:
            if any(output.finish_reason is not None for output in outputs):
                ended.set()

        def died(exc: BaseException) -> None:
            raise exc

        thread = EngineThread(Engine(gate, max_num_seqs=4), deliver=deliver, died=died)
        try:
            assert thread.stalled_s == 0
            gate.is_open.clear()
            thread.add(Sequence([1, 2, 3], SamplingParams(max_tokens=5)))
            await asyncio.to_thread(eventually, lambda: thread.stalled_s > 0.05)
            before = thread.stalled_s
            await asyncio.sleep(0.02)
            assert thread.stalled_s > before
            gate.is_open.set()
            await ended.wait()
            await asyncio.to_thread(eventually, lambda: not thread.stalled_s)
        finally:
            gate.is_open.set()
            await asyncio.to_thread(thread.stop)

    asyncio.run(run())


def test_health_fails_while_the_engine_stands_still(small_model: Model) -> None:
    with serving_model(small_model, stall_seconds=0.3, max_num_seqs=2) as server:
        assert server.get("/health").status_code == 200
        engine = server.backend.engine  # type: ignore[attr-defined]  # EngineBackend's
        gate, forward = threading.Event(), engine.runner.forward

        class Standing:
            """The runner, whose next pass waits for the gate."""

            def __getattr__(self, name: str) -> object:
                return getattr(type(self).runner, name)

            runner = engine.runner

            def forward(self, batch: Batch) -> NDArray[np.float32]:
                assert gate.wait(60)
                answer: NDArray[np.float32] = forward(batch)
                return answer

        engine.runner = Standing()
        asking = threading.Thread(
            target=server.post,
            args=("/v1/completions", {"model": "small", "prompt": "x", "max_tokens": 2}),
        )
        asking.start()
        eventually(lambda: server.get("/health").status_code == 503)
        assert server.get("/health").json() == {"status": "failed"}
        gate.set()
        asking.join()
        eventually(lambda: server.get("/health").status_code == 200)
