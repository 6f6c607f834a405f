"""A model that is fetched at its first use: once, with a reason when it cannot be, and again later."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from headrace.backends.embedder import base
from headrace.backends.embedder.base import Loading
from headrace.errors import ModelError, ModelUnavailable
from headrace.models.model import Progress


class Source:
    """Returns its count of calls, or raises, after `gate` is open."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.count, self.gate = error, 0, threading.Event()
        self.gate.set()

    def __call__(self, progress: Progress) -> int:
        self.count += 1
        for done in range(101):
            progress("downloading", done, 100)
        assert self.gate.wait(60)
        progress("verifying", 0, 0)
        if self.error is not None:
            raise self.error
        return self.count


def test_many_requests_load_it_once() -> None:
    async def work() -> None:
        source = Source()
        found: Loading[int] = Loading("m", source)
        assert not found.value
        assert await asyncio.gather(*(found.get() for _ in range(20))) == [1] * 20
        assert (await found.get(), found.value, source.count) == (1, 1, 1)

    asyncio.run(work())


def test_a_caller_who_leaves_does_not_end_it() -> None:
    async def work() -> None:
        source = Source()
        source.gate.clear()
        found: Loading[int] = Loading("m", source)
        leaving = asyncio.ensure_future(found.get())
        while not source.count:  # noqa: ASYNC110  # it waits for a thread
            await asyncio.sleep(0.001)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        source.gate.set()
        assert (await found.get(), source.count) == (1, 1)

    asyncio.run(work())


@pytest.mark.parametrize("error", [ModelError("no network"), RuntimeError("broken")])
def test_a_failure_is_503_with_its_reason_and_is_not_repeated_at_once(error: Exception) -> None:
    async def work() -> None:
        source = Source(error)
        found: Loading[int] = Loading("m", source)
        raised = await asyncio.gather(*(found.get() for _ in range(3)), return_exceptions=True)
        raised += await asyncio.gather(found.get(), return_exceptions=True)
        for one in raised:
            assert isinstance(one, ModelUnavailable)
            assert (one.status, one.code) == (503, "model_unavailable")
            assert 0 < int(one.headers["Retry-After"]) <= base.RETRY_S
        assert source.count == 1
        assert "no network" in str(raised[0]) or "RuntimeError" in str(raised[0])

    asyncio.run(work())


def test_it_is_tried_again_later() -> None:
    async def work() -> None:
        source = Source(ModelError("no network"))
        found: Loading[int] = Loading("m", source, retry_s=0)
        with pytest.raises(ModelUnavailable):
            await found.get()
        source.error = None
        assert await found.get() == 2

    asyncio.run(work())


def test_closing_ends_a_download() -> None:
    async def work() -> Callable[[], bool]:
        source = Source()
        source.gate.clear()
        found: Loading[int] = Loading("m", source)
        waiting = asyncio.ensure_future(found.get())
        while not source.count:  # noqa: ASYNC110  # it waits for a thread
            await asyncio.sleep(0.001)
        found.close()
        source.gate.set()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return lambda: found.value is None

    assert asyncio.run(work())()


def test_progress_is_a_few_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await Loading("m", Source()).get()

    with caplog.at_level("INFO"):
        asyncio.run(work())
    lines = [record.getMessage() for record in caplog.records if "downloading" in record.getMessage()]
    assert lines[0] == "m: downloading 0 % of 0.0 MB"
    assert len(lines) == base.SHARES + 1
