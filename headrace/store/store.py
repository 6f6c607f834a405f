"""Store: each method is one transaction. What is acknowledged is on the disk.

Every row belongs to an owner (the principal's id); for another owner it does not exist.
Every method raises StoreUnavailable (503) when the database cannot be reached. What speaks to it is loaded
at start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headrace.config import StoreConfig
from headrace.errors import StoreUnavailable
from headrace.store.records import (
    Chain,
    Held,
    Json,
    Page,
    StoredCompletion,
    StoredConversation,
    StoredItem,
    StoredResponse,
)

if TYPE_CHECKING:
    from headrace.store.completions import Completions
    from headrace.store.conversations import Conversations
    from headrace.store.database import Database
    from headrace.store.housekeeping import Upkeep
    from headrace.store.items import Items
    from headrace.store.processes import Processes
    from headrace.store.responses import Responses

log = logging.getLogger(__name__)

Order = Literal["asc", "desc"]


class Store:
    """`data`: the folder of the SQLite file, where `config.url` names no database."""

    _database: Database
    _processes: Processes
    _items: Items
    _conversations: Conversations
    _responses: Responses
    _completions: Completions
    _upkeep: Upkeep

    def __init__(self, config: StoreConfig, data: Path) -> None:
        self._config, self._data = config, data

    async def start(self) -> None:
        """Open, migrate, let go of what dead processes held. Raises ConfigError (a newer schema, a bad
        address). A server that cannot be reached is no error: it is tried again, and requests get
        StoreUnavailable until then.
        """
        await asyncio.to_thread(import_module, "headrace.store.housekeeping")
        from headrace.store.address import to_url
        from headrace.store.completions import Completions
        from headrace.store.conversations import Conversations
        from headrace.store.database import Database
        from headrace.store.housekeeping import Upkeep
        from headrace.store.items import Items
        from headrace.store.processes import Processes
        from headrace.store.responses import Responses

        self._processes = Processes()
        self._database = Database(to_url(self._config.url, self._data), enter=self._processes.enter)
        self._items = Items(self._database)
        self._conversations = Conversations(self._database, self._processes)
        self._responses = Responses(self._database, self._processes)
        self._completions = Completions(self._database)
        try:
            await self._database.open()
        except StoreUnavailable as exc:
            log.warning("%s It is tried again.", exc.message)
        except BaseException:
            await self._database.aclose()
            raise
        self._upkeep = Upkeep(self._database, self._processes, self._conversations, self._config)
        self._upkeep.start()

    async def aclose(self) -> None:
        if hasattr(self, "_upkeep"):
            await self._upkeep.aclose()
            await self._database.aclose()

    async def check(self) -> None:
        """Cheap: whether the database answers. Raises StoreUnavailable."""
        if self._database.cannot_write:
            await self._processes.beat(self._database)
        else:
            await self._database.check()

    async def verify(self) -> list[str]:
        """What is wrong with what is kept, a line each; hashes are derived anew."""
        from headrace.store.maintenance import verify

        return await verify(self._database)

    # paths of items

    async def path(self, owner: str, head: str | None, *, limit: int | None = None) -> list[StoredItem]:
        """The last `limit` items (None: all) up to `head`, oldest first."""
        return await self._items.path(owner, head, limit)

    async def window(
        self, owner: str, head: str | None, limit: int
    ) -> tuple[list[StoredItem], list[StoredItem]]:
        """(The system and developer messages that lie before the window, the last `limit` items), oldest
        first.
        """
        return await self._items.window(owner, head, limit)

    async def page(
        self, owner: str, head: str | None, *, limit: int, after: str | None = None, order: Order = "desc"
    ) -> Page[StoredItem]:
        """Of the path to `head`. `after`: an item's id. Raises BadRequest (param `after`) when it is not on
        it.
        """
        return await self._items.page(owner, head, limit=limit, after=after, is_descending=order == "desc")

    async def find_items(self, owner: str, ids: Sequence[str]) -> dict[str, StoredItem]:
        """By id: the newest with each, on whatever path. Ids that there are none of are left out."""
        return await self._items.find(owner, ids)

    # conversations; each raises ConversationNotFound (404)

    async def create_conversation(
        self, owner: str, items: Sequence[Json], metadata: Mapping[str, str], *, id: str | None = None
    ) -> StoredConversation:
        return await self._conversations.create(owner, items, metadata, id)

    async def conversation(self, owner: str, id: str) -> StoredConversation:
        return await self._conversations.get(owner, id)

    async def conversations(
        self, owner: str, *, limit: int, after: str | None = None, order: Order = "desc"
    ) -> Page[StoredConversation]:
        return await self._conversations.page(owner, limit=limit, after=after, is_descending=order == "desc")

    async def update_conversation(
        self, owner: str, id: str, metadata: Mapping[str, str]
    ) -> StoredConversation:
        return await self._conversations.update(owner, id, metadata)

    async def delete_conversation(self, owner: str, id: str) -> None:
        await self._conversations.delete(owner, id)

    async def add_items(self, owner: str, id: str, items: Sequence[Json]) -> list[StoredItem]:
        """Raises ConversationLocked."""
        return await self._conversations.add_items(owner, id, items)

    async def item(self, owner: str, id: str, item: str) -> StoredItem:
        """Raises ItemNotFound."""
        return await self._conversations.item(owner, id, item)

    async def delete_item(self, owner: str, id: str, item: str) -> StoredConversation:
        """What follows it is linked to what was before it. Raises ItemNotFound, ConversationLocked."""
        return await self._conversations.delete_item(owner, id, item)

    async def hold(self, owner: str, id: str) -> Held:
        """Nobody else may change it until `release`, or until this process is dead. Raises
        ConversationLocked (400).
        """
        return await self._conversations.hold(owner, id)

    async def release(self, held: Held, add: Chain | None = None) -> None:
        """Let go; with `add` (whose parent is the held head), append first, in the same transaction.
        Idempotent.
        """
        await self._conversations.release(held, add)

    # responses; those that name one raise ResponseNotFound (404)

    async def save_response(
        self,
        owner: str,
        response: StoredResponse,
        *,
        base: str | None,
        input: Sequence[Json],
        output: Sequence[Json],
        held: Held | None = None,
        append: bool = True,
    ) -> StoredResponse:
        """Insert or replace: `input` goes after `base`, `output` after that (the heads of the returned
        record are set). With `held`: the conversation's head becomes the output's (unless not `append`) and
        it is let go.
        """
        return await self._responses.save(
            owner, response, base=base, asked=input, answered=output, held=held, is_appended=append
        )

    async def response(self, owner: str, id: str) -> StoredResponse:
        return await self._responses.get(owner, id)

    async def output(self, owner: str, response: StoredResponse) -> list[StoredItem]:
        return await self._responses.output(owner, response)

    async def delete_response(self, owner: str, id: str) -> None:
        await self._responses.delete(owner, id)

    async def cancel_response(self, owner: str, id: str) -> StoredResponse:
        """Ask whichever process runs it to stop (see `wants_cancel`). Finished ones are returned as they
        are.
        """
        return await self._responses.cancel(owner, id)

    async def wants_cancel(self, ids: Sequence[str]) -> set[str]:
        """Which of the responses that this process runs shall stop: another process was asked to cancel
        them.
        """
        return await self._responses.wants_cancel(ids)

    async def add_events(self, owner: str, id: str, first: int, events: Sequence[str]) -> None:
        """JSON texts of a response's stream; `first`: the sequence_number of the first."""
        await self._responses.add_events(owner, id, first, events)

    async def events(self, owner: str, id: str, *, after: int = -1) -> list[str]:
        """Those with a greater sequence_number, in order."""
        return await self._responses.events(owner, id, after)

    # stored chat completions; those that name one raise CompletionNotFound (404)

    async def save_completion(
        self, owner: str, completion: StoredCompletion, messages: Sequence[Json]
    ) -> StoredCompletion:
        return await self._completions.save(owner, completion, messages)

    async def completion(self, owner: str, id: str) -> StoredCompletion:
        return await self._completions.get(owner, id)

    async def completions(
        self,
        owner: str,
        *,
        limit: int,
        after: str | None = None,
        order: Order = "asc",
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[StoredCompletion]:
        return await self._completions.page(
            owner,
            limit=limit,
            after=after,
            is_descending=order == "desc",
            model=model,
            metadata=metadata or {},
        )

    async def update_completion(self, owner: str, id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        return await self._completions.update(owner, id, metadata)

    async def delete_completion(self, owner: str, id: str) -> None:
        await self._completions.delete(owner, id)
