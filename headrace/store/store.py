"""Store: each method is one transaction. What is acknowledged is on the disk.

Every row belongs to an owner (the principal's id); for another owner it does not exist.
Every method raises StoreUnavailable (503) when the database cannot be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from headrace.config import StoreConfig
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

Order = Literal["asc", "desc"]


class Store:
    """`data`: the folder of the SQLite file, where `config.url` names no database."""

    def __init__(self, config: StoreConfig, data: Path) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Open, migrate, let go of what dead processes held. Raises ConfigError (a newer schema, a bad address). A
        server that cannot be reached is no error: it is tried again, and requests get StoreUnavailable until then.
        """
        raise NotImplementedError

    async def aclose(self) -> None: ...

    async def check(self) -> None:
        """Cheap: whether the database answers. Raises StoreUnavailable."""

    # paths of items

    async def path(self, owner: str, head: str | None, *, limit: int | None = None) -> list[StoredItem]:
        """The last `limit` items (None: all) up to `head`, oldest first."""
        raise NotImplementedError

    async def window(
        self, owner: str, head: str | None, limit: int
    ) -> tuple[list[StoredItem], list[StoredItem]]:
        """(The system and developer messages that lie before the window, the last `limit` items), oldest first."""
        raise NotImplementedError

    async def page(
        self, owner: str, head: str | None, *, limit: int, after: str | None = None, order: Order = "desc"
    ) -> Page[StoredItem]:
        """Of the path to `head`. `after`: an item's id. Raises BadRequest (param `after`) when it is not on it."""
        raise NotImplementedError

    # conversations; each raises ConversationNotFound (404)

    async def create_conversation(
        self, owner: str, items: Sequence[Json], metadata: Mapping[str, str], *, id: str | None = None
    ) -> StoredConversation:
        raise NotImplementedError

    async def conversation(self, owner: str, id: str) -> StoredConversation:
        raise NotImplementedError

    async def conversations(
        self, owner: str, *, limit: int, after: str | None = None, order: Order = "desc"
    ) -> Page[StoredConversation]:
        raise NotImplementedError

    async def update_conversation(
        self, owner: str, id: str, metadata: Mapping[str, str]
    ) -> StoredConversation:
        raise NotImplementedError

    async def delete_conversation(self, owner: str, id: str) -> None:
        raise NotImplementedError

    async def add_items(self, owner: str, id: str, items: Sequence[Json]) -> list[StoredItem]:
        """Raises ConversationLocked."""
        raise NotImplementedError

    async def item(self, owner: str, id: str, item: str) -> StoredItem:
        """Raises ItemNotFound."""
        raise NotImplementedError

    async def delete_item(self, owner: str, id: str, item: str) -> StoredConversation:
        """What follows it is linked to what was before it. Raises ItemNotFound, ConversationLocked."""
        raise NotImplementedError

    async def hold(self, owner: str, id: str) -> Held:
        """Nobody else may change it until `release`, or until this process is dead. Raises ConversationLocked (400)."""
        raise NotImplementedError

    async def release(self, held: Held, add: Chain | None = None) -> None:
        """Let go; with `add` (whose parent is the held head), append first, in the same transaction. Idempotent."""
        raise NotImplementedError

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
        """Insert or replace: `input` goes after `base`, `output` after that (the heads of the returned record are
        set). With `held`: the conversation's head becomes the output's (unless not `append`) and it is let go.
        """
        raise NotImplementedError

    async def response(self, owner: str, id: str) -> StoredResponse:
        raise NotImplementedError

    async def output(self, owner: str, response: StoredResponse) -> list[StoredItem]:
        raise NotImplementedError

    async def delete_response(self, owner: str, id: str) -> None:
        raise NotImplementedError

    async def cancel_response(self, owner: str, id: str) -> StoredResponse:
        """Ask whichever process runs it to stop (see `wants_cancel`). Finished ones are returned as they are."""
        raise NotImplementedError

    async def wants_cancel(self, ids: Sequence[str]) -> set[str]:
        """Which of the responses that this process runs shall stop: another process was asked to cancel them."""
        raise NotImplementedError

    async def add_events(self, owner: str, id: str, first: int, events: Sequence[str]) -> None:
        """JSON texts of a response's stream; `first`: the sequence_number of the first."""
        raise NotImplementedError

    async def events(self, owner: str, id: str, *, after: int = -1) -> list[str]:
        """Those with a greater sequence_number, in order."""
        raise NotImplementedError

    # stored chat completions; those that name one raise CompletionNotFound (404)

    async def save_completion(
        self, owner: str, completion: StoredCompletion, messages: Sequence[Json]
    ) -> StoredCompletion:
        raise NotImplementedError

    async def completion(self, owner: str, id: str) -> StoredCompletion:
        raise NotImplementedError

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
        raise NotImplementedError

    async def update_completion(self, owner: str, id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        raise NotImplementedError

    async def delete_completion(self, owner: str, id: str) -> None:
        raise NotImplementedError
