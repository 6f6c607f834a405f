"""Texts of many requests in few forward passes: in turn, of similar length, and none for who has left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.backends.embedder.batcher import MAX_PADDED, MAX_ROWS, RATIO, Batcher, Job, chosen
from headrace.encoder_types import Pooling
from headrace.errors import EngineFailed

Ids = NDArray[np.int32]


class Summing:
    """An encoder whose vector of a text is (sum of its ids, its length). It notes the lengths of each batch,
    and waits while `gate` is closed. A text with the id 13 cannot be computed; one with 14 becomes NaN.
    """

    width = 2

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.rests = 0

    def rest(self) -> None:
        self.rests += 1
        raise RuntimeError("no memory goes back")

    def encode(self, rows: Sequence[Ids], poolings: Sequence[Pooling]) -> NDArray[np.float32]:
        self.batches.append([len(row) for row in rows])
        assert self.gate.wait(60)
        if any(13 in row for row in rows):
            raise RuntimeError("no such token")
        vectors = np.array([(row.sum(), len(row)) for row in rows], np.float32)
        vectors[[14 in row for row in rows]] = np.nan
        return vectors


def texts(*lengths: int, id: int = 1) -> list[Ids]:
    return [np.full(length, id, np.int32) for length in lengths]


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # it waits for a thread
        await asyncio.sleep(0.001)


def running(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_without_texts_the_encoder_rests_once_and_then_computes_again() -> None:
    async def work() -> None:
        encoder = Summing()
        batcher = Batcher(encoder)
        await batcher.run(texts(3), "mean")
        await until(lambda: encoder.rests)
        assert (await batcher.run(texts(4), "mean")).tolist() == [[4, 4]]
        assert encoder.rests == 1
        await batcher.aclose()

    running(work())


def test_vectors_come_back_in_the_order_of_the_texts() -> None:
    async def work() -> None:
        batcher = Batcher(Summing())
        lengths = [5, 200, 7, 1, 90, 6] * 20
        found = await batcher.run(texts(*lengths), "mean")
        assert found.tolist() == [[length, length] for length in lengths]
        await batcher.aclose()

    running(work())


def test_requests_that_wait_are_computed_together() -> None:
    async def work() -> None:
        encoder = Summing()
        batcher = Batcher(encoder)
        encoder.gate.clear()
        tasks = [asyncio.ensure_future(batcher.run(texts(10, id=2), "mean"))]
        await until(lambda: encoder.batches)
        tasks += [asyncio.ensure_future(batcher.run(texts(10, id=id), "mean")) for id in range(3, 12)]
        await until(lambda: len(batcher) == 9)
        encoder.gate.set()
        found = await asyncio.gather(*tasks)
        assert [vectors[0, 0] for vectors in found] == [10 * id for id in range(2, 12)]
        assert encoder.batches == [[10], [10] * 9]  # the first one was alone
        await batcher.aclose()

    running(work())


def test_a_large_request_does_not_hold_up_a_small_one() -> None:
    async def work() -> None:
        encoder = Summing()
        batcher = Batcher(encoder)
        encoder.gate.clear()
        large = asyncio.ensure_future(batcher.run(texts(*[10] * 500), "mean"))
        await until(lambda: encoder.batches)
        small = asyncio.ensure_future(batcher.run(texts(10), "mean"))
        await until(lambda: len(batcher) == 2)
        encoder.gate.set()
        await small
        assert len(encoder.batches) <= 3  # of 16
        assert not large.done()
        await large
        await batcher.aclose()

    running(work())


def test_the_texts_of_who_has_left_are_not_computed() -> None:
    async def work() -> None:
        encoder = Summing()
        batcher = Batcher(encoder)
        encoder.gate.clear()
        leaving = asyncio.ensure_future(batcher.run(texts(*[10] * 500), "mean"))
        await until(lambda: encoder.batches)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        encoder.gate.set()
        await batcher.run(texts(20), "mean")
        assert encoder.batches == [[10] * MAX_ROWS, [20]]
        await batcher.aclose()

    running(work())


@pytest.mark.parametrize("bad", [13, 14])
def test_a_text_that_fails_fails_its_own_request_only(bad: int) -> None:
    async def work() -> None:
        encoder = Summing()
        batcher = Batcher(encoder)
        encoder.gate.clear()
        good = [asyncio.ensure_future(batcher.run(texts(10, 10), "mean"))]
        await until(lambda: encoder.batches)
        good.append(asyncio.ensure_future(batcher.run(texts(10, 10), "mean")))
        failing = asyncio.ensure_future(batcher.run([*texts(10), *texts(10, id=bad)], "mean"))
        await until(lambda: len(batcher) == 2)
        encoder.gate.set()
        for vectors in await asyncio.gather(*good):
            assert vectors.tolist() == [[10, 10], [10, 10]]
        with pytest.raises(EngineFailed):
            await failing
        assert (await batcher.run(texts(3), "mean")).tolist() == [[3, 3]]  # it goes on
        await batcher.aclose()

    running(work())


def test_closing_ends_those_who_wait() -> None:
    async def work() -> None:
        encoder = Summing()
        batcher = Batcher(encoder)
        encoder.gate.clear()
        waiting = [asyncio.ensure_future(batcher.run(texts(*[10] * 50), "mean")) for _ in range(3)]
        await until(lambda: encoder.batches and len(batcher) == 3)
        closing = asyncio.ensure_future(batcher.aclose())
        await until(lambda: all(one.done() for one in waiting))
        encoder.gate.set()
        await closing
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, EngineFailed) for one in ended)

    running(work())


@given(st.lists(st.lists(st.integers(1, 600), min_size=1, max_size=40), min_size=1, max_size=8))
def test_batches_are_bounded_and_serve_the_first_request(lengths: list[list[int]]) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        jobs = [
            Job(texts(*some), "mean", loop.create_future(), np.zeros((len(some), 2), np.float32))
            for some in lengths
        ]
        rows = chosen(jobs, MAX_ROWS)
        sizes = [len(job.texts[index]) for job, index in rows]
        assert rows[0] == (jobs[0], jobs[0].pending[0])
        assert len(set(rows)) == len(rows) <= MAX_ROWS
        assert len(rows) == 1 or max(sizes) * len(rows) <= MAX_PADDED
        assert all(size <= sizes[0] * RATIO and sizes[0] <= size * RATIO for size in sizes)

    asyncio.run(work())
