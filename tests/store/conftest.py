"""A store for a test, over either database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from headrace.config import StoreConfig
from headrace.store import Store

Opened = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture
def opened(database_url: str, tmp_path: Path) -> Opened:
    """A function that opens the test's database; each call acts as another process."""

    @asynccontextmanager
    async def open_store() -> AsyncIterator[Store]:
        store = Store(StoreConfig(url=database_url), tmp_path)
        await store.start()
        try:
            yield store
        finally:
            await store.aclose()

    return open_store
