"""Records one response in the store.

A response that fails before its client knows its id is not stored (`is_announced`). The conversation's lock
is released however the response ends: with the response, in one transaction, or alone. Once there is an
answer, a failure of the store does not withhold it from the client: the response says `store: false` instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from headrace.errors import ServerError, StoreUnavailable
from headrace.store import Store, StoredResponse
from headrace.turns.history import History, release_lock
from headrace.wire.items import Item

log = logging.getLogger(__name__)

APPENDED = ("completed", "incomplete")  # the statuses of responses that are appended to a conversation
PATIENCE_S = 30.0  # how long a finished background response waits for an unavailable database
RETRY_S = 0.5


class ResponseRecorder:
    """`input`: the items of this turn's input. `is_stored`: false writes nothing. `is_announced`: whether the
    client may know the response's id.
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
        self.owner, self.history = owner, history
        self.input: Sequence[Item] = ()
        self.is_stored, self.is_background, self.is_streamed = is_stored, is_background, is_streamed
        self.is_announced = is_background  # it is stored, and answered, before it runs
        self.is_deleted = False  # by a client, while it was running
        self._store = store
        self._id: str | None = None  # set once the response is stored
        self._num_written = 0  # events in the store
        self._writing = asyncio.Lock()  # one writer: batches of events must not overlap

    async def queue(self, response: dict[str, Any]) -> None:
        """Store the response before it runs. Raises StoreUnavailable."""
        await self._save(response, ())
        self._id = response["id"]

    async def finish(self, response: dict[str, Any], output: Sequence[Item]) -> dict[str, Any]:
        """Store the final response and release the lock. Returns the response for the client: if storing
        failed, with `store` false.
        """
        is_wanted = response["status"] in APPENDED or self.is_announced
        if not self.is_stored or not is_wanted or self.is_deleted:
            await self.release()
            return response
        try:
            await self._save_patiently(response, output)
        except Exception as exc:  # of any kind: the client waits for its answer, others for the lock
            log.error("response %s is not stored: %s", response["id"], _loggable(exc))
            await self.release()
            return {**response, "store": False}
        self._id = response["id"]  # from now on its events may be stored, too
        return response

    async def write(self, texts: Sequence[str]) -> None:
        """Store the events of `texts` that are not stored yet. After a failure, the next call tries again."""
        async with self._writing:
            first, end = self._num_written, len(texts)
            # events refer to the response's row: there is none yet, or none any more
            if self._id is None or self.is_deleted or first == end:
                return
            try:
                # if it was stored although this fails, the same batch again changes nothing
                await self._store.responses.append_events(self.owner, self._id, first, texts[first:end])
                self._num_written = end
            except ServerError as exc:
                log.warning("events of response %s are not stored: %s", self._id, _loggable(exc))

    async def release(self) -> None:
        """Release the conversation's lock without appending."""
        if self.history.lock is not None:
            await release_lock(self._store, self.history.lock)

    async def _save_patiently(self, response: dict[str, Any], output: Sequence[Item]) -> None:
        """Save the final response. A background run retries while the database is away: no client waits."""
        num_retries = int(PATIENCE_S / RETRY_S) if self.is_background else 0
        while True:
            try:
                await self._save(response, output, is_end=True)
                return
            except StoreUnavailable:
                if not num_retries:
                    raise
                num_retries -= 1
                await asyncio.sleep(RETRY_S)

    async def _save(self, response: dict[str, Any], output: Sequence[Item], *, is_end: bool = False) -> None:
        await self._store.responses.save(
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
            lock=self.history.lock if is_end else None,
            is_appended=response["status"] in APPENDED,
        )


def _loggable(exc: Exception) -> str:
    """A message without the text of a database's error, which may quote content."""
    return exc.message if isinstance(exc, ServerError) else type(exc).__name__
