"""What is kept of one response, and when. The store's failures end here: an answer that is there is
delivered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from headrace.errors import ServerError, StoreUnavailable
from headrace.store import Store, StoredResponse
from headrace.turns.history import History, let_go
from headrace.wire.items import Item

log = logging.getLogger(__name__)

APPENDED = ("completed", "incomplete")  # to a conversation; what failed or was cancelled is not
PATIENCE_S = 30.0  # how long the end of a background response waits for a database that is away
RETRY_S = 0.5


class ResponseRecorder:
    """`input`: this turn's. `is_stored` False: nothing is written. `is_told`: the caller knows the response's
    id; what failed before leaves no trace.
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
        self.is_told = is_background
        self.is_deleted = False  # while it ran
        self._store = store
        self._id: str | None = None  # once it is stored
        self._written = 0  # how many of its events are
        self._writing = asyncio.Lock()

    async def queue(self, response: dict[str, Any]) -> None:
        """Before it begins. Raises StoreUnavailable."""
        await self._save(response, ())
        self._id = response["id"]

    async def finish(self, response: dict[str, Any], output: Sequence[Item]) -> dict[str, Any]:
        """Commit; the response as it is told: `store` is false in it if that failed."""
        is_kept = response["status"] in APPENDED or self.is_told
        if not self.is_stored or not is_kept or self.is_deleted:
            await self.let_go()
            return response
        try:
            await self._save_patiently(response, output)
        except Exception as exc:
            log.error("response %s is not stored: %s", response["id"], _told(exc))
            await self.let_go()
            return {**response, "store": False}
        self._id = response["id"]
        return response

    async def write(self, texts: Sequence[str]) -> None:
        """Those of its events that are not yet stored. What cannot be written now is next time."""
        async with self._writing:
            first, whole = self._written, len(texts)
            if self._id is None or self.is_deleted or first == whole:
                return
            try:
                await self._store.responses.append_events(self.owner, self._id, first, texts[first:whole])
                self._written = whole
            except ServerError as exc:
                log.warning("events of response %s are not stored: %s", self._id, _told(exc))

    async def let_go(self) -> None:
        """Of the conversation, as it was."""
        if self.history.held is not None:
            await let_go(self._store, self.history.held)

    async def _save_patiently(self, response: dict[str, Any], output: Sequence[Item]) -> None:
        """Nobody waits for a response in the background: it may wait for the database."""
        tries = int(PATIENCE_S / RETRY_S) if self.is_background else 0
        while True:
            try:
                await self._save(response, output, is_end=True)
                return
            except StoreUnavailable:
                if not tries:
                    raise
                tries -= 1
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
            input=[*self.history.unstored, *self.input],
            output=output,
            lock=self.history.held if is_end else None,
            is_appended=response["status"] in APPENDED,
        )


def _told(exc: Exception) -> str:
    """Never the text of a database's error: it may hold what was to be stored."""
    return exc.message if isinstance(exc, ServerError) else type(exc).__name__
