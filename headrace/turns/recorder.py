"""Stores the answer of a turn, before the reader learns that it has ended.

The conversation's lock is released however the turn ends: with the answer, in one transaction, or alone. Once
there is an answer, a failure of the store does not withhold it from the client: it is only logged, and said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from headrace.errors import ServerError, StoreUnavailable
from headrace.store import ConversationLock, Store, StoredResponse
from headrace.turns.history import History, release_lock
from headrace.wire.items import Item
from headrace.wire.responses.object import ResponseObject

log = logging.getLogger(__name__)

APPENDED = ("completed", "incomplete")  # the statuses of responses that are appended to a conversation
PATIENCE_S = 30.0  # how long a finished background response waits for an unavailable database
RETRY_S = 0.5


class Recorder:
    """The storing of one turn. `lock`: of its conversation, if it has one; `is_lost`: whether storing the
    answer failed.
    """

    def __init__(self, store: Store, owner: str, lock: ConversationLock | None = None) -> None:
        self.store, self.owner, self.lock = store, owner, lock
        self.is_lost = False

    async def commit(self, what: str, save: Callable[[], Awaitable[object]]) -> None:
        """Store an answer with `save`, which also releases the lock. `what`: its name for the log."""
        try:
            await save()
        except Exception as exc:  # of any kind: the client waits for its answer, others for the lock
            self.is_lost = True
            log.error("%s is not stored: %s", what, _loggable(exc))
            await self.release()

    async def release(self) -> None:
        """Release the lock without appending. If the store fails, it retries the release later by itself."""
        if self.lock is not None:
            await release_lock(self.store, self.lock)


class ResponseRecorder(Recorder):
    """`input`: the items of this turn's input. `is_stored`: false writes nothing. `is_announced`: whether the
    client may know the response's id; a response that fails before is not stored.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        history: History,
        *,
        is_stored: bool,
        is_background: bool,
        is_streamed: bool,
    ) -> None:
        super().__init__(store, owner, history.lock)
        self.history = history
        self.input: Sequence[Item] = ()
        self.is_stored, self.is_background, self.is_streamed = is_stored, is_background, is_streamed
        self.is_announced = is_background  # it is stored, and answered, before it runs
        self.is_deleted = False  # by a client, while it was running
        self._id: str | None = None  # set once the response is stored
        self._num_written = 0  # events in the store
        self._writing = asyncio.Lock()  # one writer: batches of events must not overlap

    async def queue(self, response: ResponseObject) -> None:
        """Store the response before it runs. Raises StoreUnavailable."""
        await self._save(response, (), is_end=False)

    async def finish(self, response: ResponseObject, output: Sequence[Item]) -> ResponseObject:
        """Store the final response and release the lock. Returns the response for the client: if storing
        failed, with `store` false.
        """
        is_wanted = response["status"] in APPENDED or self.is_announced
        if not self.is_stored or not is_wanted or self.is_deleted:
            await self.release()
            return response
        await self.commit(f"response {response['id']}", lambda: self._save_patiently(response, output))
        return {**response, "store": False} if self.is_lost else response

    async def write(self, texts: Sequence[str]) -> None:
        """Store the events of `texts` that are not stored yet. After a failure, the next call tries again."""
        async with self._writing:
            first, end = self._num_written, len(texts)
            # events refer to the response's row: there is none yet, or none any more
            if self._id is None or self.is_deleted or first == end:
                return
            try:
                # if it was stored although this fails, the same batch again changes nothing
                await self.store.responses.append_events(self.owner, self._id, first, texts[first:end])
                self._num_written = end
            except ServerError as exc:
                log.warning("events of response %s are not stored: %s", self._id, _loggable(exc))

    async def _save_patiently(self, response: ResponseObject, output: Sequence[Item]) -> None:
        """Save the final response. A background run retries while the database is away: no client waits."""
        num_retries = int(PATIENCE_S / RETRY_S) if self.is_background else 0
        while True:
            try:
                return await self._save(response, output, is_end=True)
            except StoreUnavailable:
                if not num_retries:
                    raise
                num_retries -= 1
                await asyncio.sleep(RETRY_S)

    async def _save(self, response: ResponseObject, output: Sequence[Item], *, is_end: bool) -> None:
        await self.store.responses.save(
            self.owner,
            StoredResponse(
                id=response["id"],
                created_at=response["created_at"],
                status=response["status"],
                body={name: value for name, value in response.items() if name != "output"},
                is_background=self.is_background,
                is_streamed=self.is_streamed,
            ),
            base=self.history.head,
            # items of unstored responses become part of the path: it has no gaps
            input=[*self.history.unstored, *self.input],
            output=output,
            # a queued response is stored before it runs: the conversation stays locked until the end
            lock=self.lock if is_end else None,
            is_appended=response["status"] in APPENDED,
        )
        self._id = response["id"]  # from now on its events may be stored, too


def _loggable(exc: Exception) -> str:
    """A message without the text of a database's error, which may quote content."""
    return exc.message if isinstance(exc, ServerError) else type(exc).__name__
