"""Replays the stored events of a response, for a client that comes later or to another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from headrace.store import Store, StoredResponse
from headrace.turns.history import UNFINISHED
from headrace.wire.responses.object import restored
from headrace.wire.responses.stream import is_last, last_event

POLL_S = 0.5


async def replay(
    store: Store, owner: str, stored: StoredResponse, after: int = -1
) -> AsyncIterator[list[str]]:
    """Batches of the events with a sequence_number greater than `after`, as JSON. If the last events were
    lost with their process, the final event is made from the stored response. Raises StoreUnavailable,
    ResponseNotFound.
    """
    texts = await store.responses.events(owner, stored.id, after=after - 1)
    if after >= 0:
        if texts and is_last(texts[0]):
            return
        texts = texts[1:]
    is_over = False
    while texts or not is_over:
        if texts:
            after += len(texts)
            yield texts
            if is_last(texts[-1]):
                return
        await asyncio.sleep(POLL_S)
        is_over = (
            stored.status not in UNFINISHED
        )  # its last events, written just after its status, are there by now
        stored = await store.responses.get(owner, stored.id)
        texts = await store.responses.events(owner, stored.id, after=after)
    output = await store.responses.output(owner, stored)
    yield [last_event(restored(stored, output), after + 1)]
