"""The turns of /v1/responses: create, read, follow, cancel, delete and compact responses, in any process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from headrace.collected import Collected, collect
from headrace.errors import BadRequest, Overloaded, ServerError
from headrace.features import Uses
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation
from headrace.gateway.lifetime import Until
from headrace.store import Order, Page, Store, StoredItem, StoredResponse
from headrace.turns.history import UNFINISHED, History, Memory, load_history, run_aside, weight
from headrace.turns.recorder import ResponseRecorder
from headrace.turns.runs import Run, Runs
from headrace.turns.truncation import CarriedItems, check_fits, start_fitted
from headrace.types import Conversation, GenerateRequest, Message, ModelInfo, Sampling
from headrace.wire.items import Item, new_id, references, resolved, to_items, to_messages
from headrace.wire.responses.body import (
    CompactBody,
    HistoryBody,
    InputTokensBody,
    ResponseBody,
    check,
    in_endpoint_names,
    to_request,
    to_tokenize_request,
)
from headrace.wire.responses.object import CompactedResponse, ResponseObject, begin, compacted, restored
from headrace.wire.responses.stream import ResponseEvents, is_last, last_event

CANCEL_S = 5.0  # how long another process may take to cancel a response
POLL_S = 0.2
REPLAY_POLL_S = 0.5

# What a model is told that compacts a conversation: its summary replaces the conversation.
SUMMARY_PROMPT = (
    "Summarise our conversation so far, so that somebody who has only your summary can go on with it. Keep "
    "names, numbers, decisions, open questions, what was asked of you and what tools found. Write nothing "
    "but the summary."
)
LEAST_SUMMARY, MOST_SUMMARY = 128, 2048  # tokens of a summary; small models do not always stop by themselves


@dataclass(frozen=True, slots=True)
class Turn:
    """One request for a response: its body, its target, and the recorder of its answer."""

    body: ResponseBody
    provider: str | None
    recorder: ResponseRecorder
    uses: Uses

    def request(self, history: Sequence[Item]) -> GenerateRequest:
        """The request to the model, on top of these items. Raises BadRequest."""
        request = to_request(self.body, [*history, *self.recorder.input])
        return replace(request, owner=self.recorder.owner)

    async def full_request(self) -> GenerateRequest:
        """The request to the model, on top of the whole history. Raises BadRequest."""
        history = self.recorder.history.items
        return await run_aside(weight(history) + weight(self.recorder.input), partial(self.request, history))


class Responses:
    """The responses that this process runs, and the stored ones of all."""

    def __init__(self, gateway: Gateway, store: Store) -> None:
        self._gateway, self._store = gateway, store
        self._runs = Runs(store)

    async def aclose(self) -> None:
        """Fail what still runs, with the reason. Call it before the store is closed."""
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
        """Start a run, or queue and store one in the background. `memory`: the unstored responses that it may
        continue. Raises ServerError.
        """
        check(body)
        is_stored = body.store is not False
        if is_stored:
            await self._store.check()
        self._gateway.router.model(body.model, provider)
        history = await load_history(self._store, owner, body, memory or {}, is_written=is_stored)
        recorder = ResponseRecorder(
            self._store, owner, history,
            is_stored=is_stored, is_background=bool(body.background), is_streamed=bool(body.stream),
        )  # fmt: skip
        turn = Turn(body, provider, recorder, uses)
        try:
            recorder.input = await self._input(owner, body, history)
            if body.background:
                await self._check(turn)
            return await (self._queue(turn) if body.background else self._start(turn))
        except BaseException:
            await asyncio.shield(recorder.release())
            raise

    async def _input(self, owner: str, body: HistoryBody, history: History) -> Sequence[Item]:
        """The items of this turn's input; references are replaced by copies. Raises BadRequest, ItemNotFound,
        StoreUnavailable.
        """
        input = await run_aside(weight(body.input or ()), partial(to_items, body.input, "input"))
        wanted = references(input)
        if not wanted:
            return input
        items: dict[str, Item] = {item.get("id", ""): item for item in history.items}
        others = await self._store.items.find(owner, [id for id in wanted if id not in items])
        items |= {id: item.body for id, item in others.items()}
        return resolved(input, items, "input")

    async def _check(self, turn: Turn) -> None:
        """Check a background response before it is stored. Raises BadRequest."""
        history = turn.recorder.history
        try:
            request = await turn.full_request()
            if turn.body.truncation == "auto":
                carried = CarriedItems(history.items, turn.recorder.input)
                request = await run_aside(len(history.items), partial(turn.request, carried.fewest))
            await check_fits(self._gateway, turn.provider, request)
        except BadRequest as exc:
            raise in_endpoint_names(turn.body, exc) from exc

    async def _start(self, turn: Turn) -> Run:
        generation = await self._open(turn)
        run = self._run(turn, generation.info)
        run.observe(generation)
        self._runs.start(run)
        return run

    async def _queue(self, turn: Turn) -> Run:
        """Store and start a background run; cancel it if the client leaves before it has the id."""
        if self._gateway.is_draining:
            raise Overloaded("the server is shutting down", retry_after_s=5)
        storing = asyncio.ensure_future(self._store_and_run(turn))
        try:
            return await asyncio.shield(storing)
        except asyncio.CancelledError:
            await (await storing).cancel()
            raise

    async def _store_and_run(self, turn: Turn) -> Run:
        run = self._run(turn, self._gateway.router.model(turn.body.model, turn.provider))
        await turn.recorder.queue(run.response)
        self._runs.start(run, partial(self._open, turn))
        return run

    def _run(self, turn: Turn, info: ModelInfo) -> Run:
        response = begin(turn.body, info, id=new_id("resp"), created_at=int(time.time()))
        return Run(ResponseEvents(response, turn.body), turn.recorder, partial(in_endpoint_names, turn.body))

    async def _open(self, turn: Turn) -> Generation:
        """Start the generation. Raises ServerError."""
        history = turn.recorder.history
        try:
            if turn.body.truncation == "auto":
                carried = await run_aside(
                    len(history.items), partial(CarriedItems, history.items, turn.recorder.input)
                )
                return await start_fitted(self._gateway, turn.provider, carried, turn.request, turn.uses)
            return await self._gateway.start(await turn.full_request(), turn.provider, uses=turn.uses)
        except BadRequest as exc:
            raise in_endpoint_names(turn.body, exc) from exc

    async def get(self, owner: str, id: str) -> ResponseObject:
        """The response as it stands. Raises ResponseNotFound, StoreUnavailable."""
        run = self._runs.find(owner, id)
        if run is not None:
            return run.response
        return await self._with_output(owner, await self._store.responses.get(owner, id))

    async def _with_output(self, owner: str, stored: StoredResponse) -> ResponseObject:
        return restored(stored, await self._store.responses.output(owner, stored))

    async def follow(self, owner: str, id: str, after: int) -> AsyncIterator[list[str]]:
        """Batches of its events with a sequence_number greater than `after`, as they come. Raises
        ResponseNotFound, BadRequest, StoreUnavailable.
        """
        run = self._runs.find(owner, id)
        if run is not None:
            _check_streamed(run.recorder.is_streamed)
            return run.follow(after)
        stored = await self._store.responses.get(owner, id)
        _check_streamed(stored.is_streamed)
        return replay(self._store, owner, stored, after)

    async def delete(self, owner: str, id: str) -> None:
        """Delete a response; one that runs is cancelled, and not stored. Raises ResponseNotFound,
        StoreUnavailable.
        """
        run = self._runs.find(owner, id)
        if run is None or run.recorder.is_background or run.is_done:
            await self._store.responses.delete(owner, id)
        if run is not None:
            run.recorder.is_deleted = not run.recorder.is_background
            await run.cancel()

    async def cancel(self, owner: str, id: str) -> ResponseObject:
        """Cancel a background response and return it; one that has ended does not change. Raises
        ResponseNotFound, BadRequest, StoreUnavailable.
        """
        run = self._runs.find(owner, id)
        if run is None:
            return await self._cancel_elsewhere(owner, id)
        _check_background(run.recorder.is_background)
        await run.cancel()
        return run.response

    async def _cancel_elsewhere(self, owner: str, id: str) -> ResponseObject:
        """Ask the process that runs it, and wait up to CANCEL_S for the end."""
        stored = await self._store.responses.get(owner, id)
        _check_background(stored.is_background)
        deadline = time.monotonic() + CANCEL_S
        if stored.status in UNFINISHED:
            stored = await self._store.responses.cancel(owner, id)
        while stored.status in UNFINISHED and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            stored = await self._store.responses.get(owner, id)
        return await self._with_output(owner, stored)

    async def input_items(
        self, owner: str, id: str, *, limit: int, after: str | None, order: Order
    ) -> Page[StoredItem]:
        """A page of its input items, the history included. Raises ResponseNotFound, BadRequest,
        StoreUnavailable.
        """
        stored = await self._store.responses.get(owner, id)
        return await self._store.items.page(owner, stored.input_head, limit=limit, after=after, order=order)

    async def count_input(self, owner: str, body: InputTokensBody, provider: str | None = None) -> int:
        """The number of tokens of the history and the input. Raises ServerError."""
        items = await self._items(owner, body)
        try:
            request = await run_aside(weight(items), partial(to_tokenize_request, body, items))
            return len(await self._gateway.tokenize(request, provider))
        except BadRequest as exc:
            raise in_endpoint_names(body, exc) from exc

    async def compact(self, owner: str, body: CompactBody, provider: str | None = None) -> CompactedResponse:
        """The compacted conversation: the user's messages and a summary. Raises ServerError."""
        items = await self._items(owner, body)
        build = partial(to_summary_request, body.model, body.instructions, items)
        request = body.steered.applied(replace(await run_aside(weight(items), build), owner=owner))
        generation = await self._gateway.start(request, provider)
        try:
            return compacted(await summary(generation), items)
        finally:
            await asyncio.shield(generation.aclose())

    async def _items(self, owner: str, body: HistoryBody) -> Sequence[Item]:
        """The history, then the input. Raises ServerError."""
        check(body)
        history = await load_history(self._store, owner, body, {})
        return [*history.items, *await self._input(owner, body, history)]


def _check_streamed(is_streamed: bool) -> None:
    if not is_streamed:
        raise BadRequest(
            "This response cannot be streamed: it was not created with stream=true.", param="stream"
        )


def _check_background(is_background: bool) -> None:
    if not is_background:
        raise BadRequest("Cannot cancel a synchronous response.")


def to_summary_request(model: str, instructions: str | None, items: Sequence[Item]) -> GenerateRequest:
    """A request for a summary of `items`. Raises BadRequest."""
    system = (Message("system", instructions),) if instructions else ()
    messages = (*system, *to_messages(items), Message("user", SUMMARY_PROMPT))
    return GenerateRequest(model, Conversation(messages), Sampling(max_tokens=_limit(messages)))


def _limit(messages: Sequence[Message]) -> int:
    """The most tokens of a summary: about as many as the messages have (four characters a token)."""
    return min(MOST_SUMMARY, max(LEAST_SUMMARY, sum(len(message.text) for message in messages) // 4))


async def summary(generation: Generation) -> Collected:
    """Collect the summary and its usage. Raises ServerError if the model wrote none."""
    async with Until(generation.interrupted):
        collected = await collect(generation, 1)
    if not collected.choices or not collected.choices[0].text.strip():
        raise ServerError("the model wrote no summary")
    return collected


async def replay(
    store: Store, owner: str, stored: StoredResponse, after: int = -1
) -> AsyncIterator[list[str]]:
    """Replay the stored events, for a client that comes later or to another process: batches of those with a
    sequence_number greater than `after`, as JSON. If the last events were lost with their process, the final
    event is made from the stored response. Raises StoreUnavailable, ResponseNotFound.
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
        await asyncio.sleep(REPLAY_POLL_S)
        # its last events, written just after its status, are there by now
        is_over = stored.status not in UNFINISHED
        stored = await store.responses.get(owner, stored.id)
        texts = await store.responses.events(owner, stored.id, after=after)
    output = await store.responses.output(owner, stored)
    yield [last_event(restored(stored, output), after + 1)]
