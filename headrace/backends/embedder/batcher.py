"""Computes the texts of many requests together. A batch is padded to its longest text, so it consists of
texts of similar length. The requests take turns; one that is cancelled leaves its texts uncomputed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from headrace.encoder_types import Pooling
from headrace.errors import EngineFailed, ServerError
from headrace.offload import cancel_and_wait

log = logging.getLogger(__name__)

MAX_ROWS = 32  # texts in one forward pass
MAX_PADDED = 4096  # tokens in one, padding included: some 0.4 s of two cores for a model of 22M weights
REST_AFTER_S = 2.0  # without texts
RATIO = 2  # between the longest and the shortest text of one

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
Text = TypeVar("Text", bound=Sized)  # as token ids; its length is their number
Read = TypeVar("Read", bound=Sized, contravariant=True)


class Encoder(Protocol[Read]):
    """A loaded model. Called from one thread at a time."""

    width: int

    def encode(self, texts: Sequence[Read], poolings: Sequence[Pooling]) -> Vectors:
        """The pooled states of texts, [texts, width], not scaled."""
        ...

    def rest(self) -> None:
        """Return the memory of large batches. Called when there is no work."""
        ...


@dataclass(eq=False, slots=True)
class Job(Generic[Text]):
    """The texts of one request. `pending`: indices of those that no forward pass has yet, longest first."""

    texts: Sequence[Text]
    pooling: Pooling
    done: asyncio.Future[Vectors]
    vectors: Vectors
    pending: list[int] = field(init=False)
    num_missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.pending = sorted(range(len(self.texts)), key=lambda index: -len(self.texts[index]))
        self.num_missing = len(self.texts)


Row = tuple[Job[Text], int]


class Batcher(Generic[Text]):
    """One thread that computes batches, and the queue before it. The caller bounds the number of requests."""

    # Everything but `encoder.encode` runs on the event loop, so no lock is needed. A job is in `_jobs` while
    # it has pending texts; the first one is served next.

    def __init__(self, encoder: Encoder[Text], max_rows: int = MAX_ROWS) -> None:
        self._encoder, self._max_rows = encoder, max_rows
        self._jobs: deque[Job[Text]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._worker = asyncio.create_task(self._work())

    def __len__(self) -> int:
        """The number of requests with texts that no forward pass has yet."""
        return len(self._jobs)

    async def aclose(self) -> None:
        """End after the forward pass that runs."""
        await cancel_and_wait(self._worker)
        for job in self._jobs:
            _fail(job, EngineFailed("the server is shutting down"))
        await asyncio.to_thread(self._thread.shutdown)

    async def run(self, texts: Sequence[Text], pooling: Pooling) -> Vectors:
        """Compute the vectors of texts, [texts, width], in a batch with those of other callers. Cancelling
        the call removes them from the queue. Raises EngineFailed.
        """
        import numpy as np

        vectors = np.zeros((len(texts), self._encoder.width), np.float32)
        job = Job(texts, pooling, asyncio.get_running_loop().create_future(), vectors)
        self._jobs.append(job)
        self._arrived.set()
        try:
            return await job.done
        finally:
            if job in self._jobs:
                self._jobs.remove(job)

    async def _work(self) -> None:
        while True:
            if self._jobs:
                await self._compute(self._take())
            else:
                self._arrived.clear()
                await self._wait()

    async def _wait(self) -> None:
        """Wait for texts; after some time without any, the encoder returns memory."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_AFTER_S):
                await self._arrived.wait()
                return
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.rest)
        except Exception:
            log.exception("the embedding model could not return memory")
        await self._arrived.wait()

    async def _compute(self, rows: Sequence[Row[Text]]) -> None:
        """Compute a batch. Of one that fails, every text is computed again alone, so that only the requests
        end with an error whose texts cause it.
        """
        texts = [job.texts[index] for job, index in rows]
        run = partial(self._encoder.encode, texts, [job.pooling for job, _ in rows])
        try:
            _deliver(rows, await asyncio.get_running_loop().run_in_executor(self._thread, run))
        except Exception as exc:
            log.exception("a batch of %d texts failed", len(rows))
            if len(rows) == 1:
                self._give_up(rows[0][0], exc)
                return
            for row in rows:
                if not row[0].done.done():
                    await self._compute([row])

    def _give_up(self, job: Job[Text], exc: Exception) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        _fail(job, EngineFailed(f"the embedding model could not compute this request ({type(exc).__name__})"))

    def _take(self) -> list[Row[Text]]:
        """Remove the next batch's texts from their jobs. The job that was served first goes to the end."""
        rows = chosen(self._jobs, self._max_rows)
        taken = set(rows)
        for job in {job for job, _ in rows}:
            job.pending = [index for index in job.pending if (job, index) not in taken]
        self._jobs.rotate(-1)
        for job in [job for job in self._jobs if not job.pending]:
            self._jobs.remove(job)
        return rows


def chosen(jobs: Sequence[Job[Text]], max_rows: int) -> list[Row[Text]]:
    """The texts of the next batch, `max_rows` at most: the longest one of the first job, and those closest to
    it in length among the next ones of all jobs in turn.
    """
    window = list(_in_turn(jobs, max_rows))
    first, size = window[0], _length(window[0])
    rows, longest = [first], size
    for row in sorted(window[1:], key=lambda row: abs(_length(row) - size)):
        length = _length(row)
        grown = max(longest, length)
        is_similar = size <= length * RATIO and length <= size * RATIO
        if is_similar and grown * (len(rows) + 1) <= MAX_PADDED:
            rows.append(row)
            longest = grown
    return rows


def _in_turn(jobs: Sequence[Job[Text]], max_rows: int) -> Iterator[Row[Text]]:
    """The texts of the next forward pass: pending ones, one of each job in turn, as many as fit."""
    count = 0
    for position in range(max_rows):
        for job in jobs:
            if position < len(job.pending):
                yield job, job.pending[position]
                count += 1
                if count == max_rows:
                    return


def _length(row: Row[Text]) -> int:
    job, index = row
    return len(job.texts[index])


def _deliver(rows: Sequence[Row[Text]], vectors: Vectors) -> None:
    import numpy as np

    if not np.isfinite(vectors).all():
        raise ArithmeticError("the model's output is not finite")
    for (job, index), vector in zip(rows, vectors, strict=True):
        job.vectors[index] = vector
        job.num_missing -= 1
        if not job.num_missing and not job.done.done():
            job.done.set_result(job.vectors)


def _fail(job: Job[Text], error: ServerError) -> None:
    if not job.done.done():
        job.done.set_exception(error)
