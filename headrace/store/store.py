"""The store: items, conversations, responses and chat completions, over one database.

Each method of `store.items`, `store.conversations`, `store.responses` and `store.completions` is one
transaction; when it returns, its result is on the disk. Every row belongs to an owner (the principal's id)
and does not exist for any other. Every method raises StoreUnavailable (503) when the database cannot be used.
"""

from __future__ import annotations

import asyncio
import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.config import StoreConfig
from headrace.errors import StoreUnavailable

if TYPE_CHECKING:  # SQLAlchemy is loaded by `start`, in a thread
    from headrace.store.completions import Completions
    from headrace.store.conversations import Conversations
    from headrace.store.database import Database
    from headrace.store.housekeeping import Housekeeping
    from headrace.store.items import Items
    from headrace.store.keys import Keys, UsageCounts
    from headrace.store.presets import Presets
    from headrace.store.processes import Processes
    from headrace.store.responses import Responses
    from headrace.store.steering import Steering

log = logging.getLogger(__name__)


class Store:
    """`data`: the folder of the SQLite file, where `config.url` names no database. All attributes are set by
    `start`.
    """

    items: Items
    conversations: Conversations
    responses: Responses
    completions: Completions
    keys: Keys
    usage: UsageCounts
    steering: Steering
    presets: Presets
    _database: Database
    _processes: Processes
    _housekeeping: Housekeeping

    def __init__(self, config: StoreConfig, data: Path) -> None:
        self._config, self._data = config, data

    async def start(self) -> None:
        """Open and migrate the database, and release the locks of dead processes.

        Raises ConfigError (a newer schema, a bad address). A database server that cannot be reached is no
        error: each request tries again, and raises StoreUnavailable until one succeeds.
        """
        await asyncio.to_thread(import_module, "headrace.store.housekeeping")
        from headrace.store.completions import Completions
        from headrace.store.conversations import Conversations
        from headrace.store.database import Database, to_url
        from headrace.store.housekeeping import Housekeeping
        from headrace.store.items import Items
        from headrace.store.keys import Keys, UsageCounts
        from headrace.store.presets import Presets
        from headrace.store.processes import Processes
        from headrace.store.responses import Responses
        from headrace.store.steering import Steering

        self._processes = Processes()
        self._database = Database(to_url(self._config.url, self._data), enter=self._processes.enter)
        self.items = Items(self._database)
        self.conversations = Conversations(self._database, self._processes)
        self.responses = Responses(self._database, self._processes)
        self.completions = Completions(self._database)
        self.keys = Keys(self._database)
        self.usage = UsageCounts(self._database, self._processes.id)
        self.steering = Steering(self._database)
        self.presets = Presets(self._database)
        try:
            await self._database.open()
        except StoreUnavailable as exc:
            where = "" if self._config.url else f" The data folder is {self._data}."
            log.warning("%s It is tried again.%s", exc.message, where)
        except BaseException:
            await self._database.aclose()
            raise
        self._housekeeping = Housekeeping(self._database, self._processes, self.conversations, self._config)
        self._housekeeping.start()

    async def aclose(self) -> None:
        if hasattr(self, "_housekeeping"):
            await self._housekeeping.aclose()
            await self._database.aclose()

    @property
    def is_available(self) -> bool:
        """Whether the database answered last, and took the last write."""
        return hasattr(self, "_database") and self._database.is_available

    @property
    def counts(self) -> dict[str, float]:
        """The transactions so far, by kind, and their seconds."""
        return self._database.counts

    async def check(self) -> None:
        """Check cheaply that the database answers. Raises StoreUnavailable."""
        if self._database.cannot_write:
            await self._processes.beat(self._database)
        else:
            await self._database.check()

    async def verify(self) -> list[str]:
        """Recompute all hashes and follow all references. Returns a line for each thing that is wrong."""
        from headrace.store.maintenance import verify

        return await verify(self._database)
