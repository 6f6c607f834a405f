"""The turns of /v1/responses: a question on what was said before, its answer, and what is kept of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from headrace.errors import BadRequest, Overloaded
from headrace.features import Uses
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation
from headrace.store import Order, Page, Store, StoredItem, StoredResponse
from headrace.turns.compaction import summary
from headrace.turns.compaction import to_request as summarising
from headrace.turns.history import UNFINISHED, History, Memory, history_of, walked, weight
from headrace.turns.recorder import ResponseRecorder
from headrace.turns.replay import replay
from headrace.turns.runs import Run, Runs
from headrace.turns.truncation import Carried, check_fits, start_fitted
from headrace.types import GenerateRequest, ModelInfo
from headrace.wire.items import Item, new_id, references, resolved, to_items
from headrace.wire.responses.body import (
    CompactBody,
    HistoryBody,
    InputTokensBody,
    ResponseBody,
    as_asked,
    check,
    to_request,
    to_tokenize_request,
)
from headrace.wire.responses.object import begin, compacted
from headrace.wire.responses.stream import ResponseEvents

CANCEL_S = 5.0  # how long another process may take to cancel a response
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Turn:
    """One question, where it goes, and what is to be kept of it."""

    body: ResponseBody
    provider: str | None
    keeping: ResponseRecorder
    uses: Uses

    def request(self, carried: Sequence[Item]) -> GenerateRequest:
        """On top of these items. Raises BadRequest."""
        request = to_request(self.body, [*carried, *self.keeping.input])
        return replace(request, owner=self.keeping.owner)

    async def whole(self) -> GenerateRequest:
        """On top of all that was said. Raises BadRequest."""
        said = self.keeping.history.items
        return await walked(weight(said) + weight(self.keeping.input), partial(self.request, said))


class Responses:
    def __init__(self, gateway: Gateway, store: Store) -> None:
        self._gateway, self._store = gateway, store
        self._runs = Runs(store)

    async def aclose(self) -> None:
        """Before the store: what still runs fails, and says why."""
        await self._runs.aclose()

    async def create(
        self,
        owner: str,
        body: ResponseBody,
        provider: str | None = None,
        memory: Memory | None = None,
        *,
        uses: Uses,
    ) -> Run:
        """A run that has begun, or one in the background that is stored as queued. Raises ServerError.
        `memory`: the unstored responses that it may go on from, by id.
        """
        turn = Turn(body, provider, await self._kept(owner, body, provider, memory or {}), uses)
        try:
            if body.background:
                await self._check(turn)
            return await (self._queued(turn) if body.background else self._started(turn))
        except BaseException:
            await asyncio.shield(turn.keeping.let_go())
            raise

    async def _kept(
        self, owner: str, body: ResponseBody, provider: str | None, memory: Memory
    ) -> ResponseRecorder:
        check(body)
        is_stored = body.store is not False
        if is_stored:
            await self._store.check()
        self._gateway.model(body.model, provider)
        history = await history_of(self._store, owner, body, memory, is_written=is_stored)
        keeping = ResponseRecorder(
            self._store, owner, history,
            is_stored=is_stored, is_background=bool(body.background), is_streamed=bool(body.stream),
        )  # fmt: skip
        try:
            keeping.input = await self._input(owner, body, history)
        except BaseException:
            await asyncio.shield(keeping.let_go())
            raise
        return keeping

    async def _input(self, owner: str, body: HistoryBody, history: History) -> Sequence[Item]:
        """This turn's. Raises BadRequest, ItemNotFound, StoreUnavailable."""
        input = await walked(weight(body.input or ()), partial(to_items, body.input, "input"))
        wanted = references(input)
        if not wanted:
            return input
        found: dict[str, Item] = {item.get("id", ""): item for item in history.items}
        elsewhere = await self._store.items.find(owner, [id for id in wanted if id not in found])
        found |= {id: item.body for id, item in elsewhere.items()}
        return resolved(input, found, "input")

    async def _check(self, turn: Turn) -> None:
        """What is wrong with a response in the background is said before it is stored. Raises BadRequest."""
        history = turn.keeping.history
        try:
            asked = await turn.whole()
            if turn.body.truncation == "auto":
                carried = Carried(history.items, turn.keeping.input)
                asked = await walked(len(history.items), partial(turn.request, carried.fewest))
            await check_fits(self._gateway, turn.provider, asked)
        except BadRequest as exc:
            raise as_asked(turn.body, exc) from exc

    async def _started(self, turn: Turn) -> Run:
        generation = await self._open(turn)
        run = self._run(turn, generation.info)
        self._runs.start(run, partial(_there, generation))
        return run

    async def _queued(self, turn: Turn) -> Run:
        """A caller that leaves meanwhile never knows its id: then it is cancelled."""
        if self._gateway.is_draining:
            raise Overloaded("the server is shutting down", retry_after_s=5)
        queueing = asyncio.ensure_future(self._queue(turn))
        try:
            return await asyncio.shield(queueing)
        except asyncio.CancelledError:
            await (await queueing).cancel()
            raise

    async def _queue(self, turn: Turn) -> Run:
        run = self._run(turn, self._gateway.model(turn.body.model, turn.provider))
        await turn.keeping.queue(run.response)
        self._runs.start(run, partial(self._open, turn))
        return run

    def _run(self, turn: Turn, info: ModelInfo) -> Run:
        response = begin(turn.body, info, id=new_id("resp"), created_at=int(time.time()))
        return Run(ResponseEvents(response, turn.body), turn.keeping, partial(as_asked, turn.body))

    async def _open(self, turn: Turn) -> Generation:
        """Raises ServerError."""
        history = turn.keeping.history
        try:
            if turn.body.truncation == "auto":
                carried = await walked(
                    len(history.items), partial(Carried, history.items, turn.keeping.input)
                )
                return await start_fitted(self._gateway, turn.provider, carried, turn.request, turn.uses)
            return await self._gateway.start(await turn.whole(), turn.provider, uses=turn.uses)
        except BadRequest as exc:
            raise as_asked(turn.body, exc) from exc

    async def get(self, owner: str, id: str) -> dict[str, Any]:
        """Raises ResponseNotFound, StoreUnavailable."""
        run = self._runs.find(owner, id)
        if run is not None:
            return run.response
        return await self._whole(owner, await self._store.responses.get(owner, id))

    async def _whole(self, owner: str, stored: StoredResponse) -> dict[str, Any]:
        output = await self._store.responses.output(owner, stored)
        return {**stored.body, "output": [item.body for item in output]}

    async def follow(self, owner: str, id: str, after: int) -> AsyncIterator[list[str]]:
        """The events of its stream with a greater sequence_number, as they come. Raises ResponseNotFound,
        BadRequest, StoreUnavailable.
        """
        run = self._runs.find(owner, id)
        if run is not None:
            _check_streamed(run.keeping.is_streamed)
            return run.follow(after)
        stored = await self._store.responses.get(owner, id)
        _check_streamed(stored.is_streamed)
        return replay(self._store, owner, stored, after)

    async def delete(self, owner: str, id: str) -> None:
        """One that still runs is cancelled, and nothing is kept of it. Raises ResponseNotFound,
        StoreUnavailable.
        """
        run = self._runs.find(owner, id)
        if run is None or run.keeping.is_background or run.is_done:
            await self._store.responses.delete(owner, id)
        if run is not None:
            run.keeping.is_deleted = not run.keeping.is_background
            await run.cancel()

    async def cancel(self, owner: str, id: str) -> dict[str, Any]:
        """What has ended is returned as it is. Raises ResponseNotFound, BadRequest, StoreUnavailable."""
        run = self._runs.find(owner, id)
        if run is None:
            return await self._cancel_elsewhere(owner, id)
        _check_background(run.keeping.is_background)
        await run.cancel()
        return run.response

    async def _cancel_elsewhere(self, owner: str, id: str) -> dict[str, Any]:
        stored = await self._store.responses.get(owner, id)
        _check_background(stored.is_background)
        deadline = time.monotonic() + CANCEL_S
        if stored.status in UNFINISHED:
            stored = await self._store.responses.cancel(owner, id)
        while stored.status in UNFINISHED and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            stored = await self._store.responses.get(owner, id)
        return await self._whole(owner, stored)

    async def input_items(
        self, owner: str, id: str, *, limit: int, after: str | None, order: Order
    ) -> Page[StoredItem]:
        """What it was asked, with what was carried over. Raises ResponseNotFound, BadRequest,
        StoreUnavailable.
        """
        stored = await self._store.responses.get(owner, id)
        return await self._store.items.page(owner, stored.input_head, limit=limit, after=after, order=order)

    async def count_input(self, owner: str, body: InputTokensBody, provider: str | None = None) -> int:
        """Tokens. Raises ServerError."""
        items = await self._items(owner, body)
        try:
            asked = await walked(weight(items), partial(to_tokenize_request, body, items))
            return len(await self._gateway.tokenize(asked, provider))
        except BadRequest as exc:
            raise as_asked(body, exc) from exc

    async def compact(self, owner: str, body: CompactBody, provider: str | None = None) -> dict[str, Any]:
        """The object that holds what the user said, and the summary. Raises ServerError."""
        said = await self._items(owner, body)
        asked = await walked(weight(said), partial(summarising, body.model, body.instructions, said))
        request = replace(asked, owner=owner)
        generation = await self._gateway.start(request, provider)
        try:
            return compacted(await summary(generation), said)
        finally:
            await asyncio.shield(generation.aclose())

    async def _items(self, owner: str, body: HistoryBody) -> Sequence[Item]:
        """All that was said. Raises ServerError."""
        check(body)
        history = await history_of(self._store, owner, body, {})
        return [*history.items, *await self._input(owner, body, history)]


async def _there(generation: Generation) -> Generation:
    return generation


def _check_streamed(is_streamed: bool) -> None:
    if not is_streamed:
        raise BadRequest(
            "This response cannot be streamed: it was not created with stream=true.", param="stream"
        )


def _check_background(is_background: bool) -> None:
    if not is_background:
        raise BadRequest("Cannot cancel a synchronous response.")
