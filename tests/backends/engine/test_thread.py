"""The engine's thread hands each token to the loop, in order, also where several steps come at once. What is
to run in it ends when the thread does.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from headrace.backends.engine.thread import MANY, EngineThread
from headrace.engine.engine import Engine, Output
from headrace.engine.sequence import SamplingParams, Sequence
from tests.engine.fakes import FakeRunner

TOKENS = 30


def test_many_sequences_tokens_arrive_all_and_in_order() -> None:
    sequences = [Sequence([i, i + 1], SamplingParams(TOKENS, temperature=0)) for i in range(2 * MANY)]
    received: dict[Sequence, list[int]] = defaultdict(list)
    sizes: list[int] = []

    async def run() -> None:
        ended = asyncio.Event()

        def deliver(outputs: list[Output]) -> None:
            sizes.append(len(outputs))
            for output in outputs:
                assert output.token is not None
                received[output.sequence].append(output.token)
            if all(len(received[sequence]) == TOKENS for sequence in sequences):
                ended.set()

        def died(exc: BaseException) -> None:
            raise exc

        engine = Engine(FakeRunner(num_blocks=400), max_num_seqs=len(sequences))
        thread = EngineThread(engine, deliver=deliver, died=died)
        try:
            for sequence in sequences:
                thread.add(sequence)
            async with asyncio.timeout(60):
                await ended.wait()
        finally:
            await asyncio.to_thread(thread.stop)

    asyncio.run(run())
    assert received == {sequence: sequence.tokens[sequence.num_prompt :] for sequence in sequences}
    assert sum(sizes) == TOKENS * len(sequences)


class Broken(Engine):
    """An engine with a bug."""

    def step(self) -> list[Output]:
        raise RuntimeError("a bug")


@pytest.mark.parametrize("kind", [Engine, Broken])
def test_a_call_to_a_thread_that_has_ended_is_cancelled(kind: type[Engine]) -> None:
    async def run() -> None:
        has_died = asyncio.Event()
        thread = EngineThread(
            kind(FakeRunner(num_blocks=400), max_num_seqs=1),
            deliver=lambda outputs: None,
            died=lambda exc: has_died.set(),
        )
        if kind is Broken:
            thread.add(Sequence([1, 2], SamplingParams(TOKENS)))
            await has_died.wait()
        else:
            await asyncio.to_thread(thread.stop)
        assert thread.call(lambda: True).cancelled()
        await asyncio.to_thread(thread.stop)

    asyncio.run(run())
