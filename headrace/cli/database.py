"""Runs work of a command on the database, with or without a server that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from headrace.config import Config

if TYPE_CHECKING:
    from headrace.store.maintenance import Maintenance

T = TypeVar("T")


def on_database(config: Config, work: Callable[[Maintenance], Awaitable[T]]) -> T:
    """The result of work. Raises ConfigError, StoreUnavailable, and what work raises."""
    from headrace.store.maintenance import Maintenance  # loads SQLAlchemy, which `--help` does not need

    async def run() -> T:
        async with Maintenance(config.store, config.paths.data) as database:
            return await work(database)

    return asyncio.run(run())
