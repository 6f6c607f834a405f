"""The store, as a dependency."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from headrace.store import Store


async def _store(http: Request) -> Store:
    store: Store = http.app.state.store
    return store


Stored = Annotated[Store, Depends(_store)]
