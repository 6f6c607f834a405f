"""A chat of which something is kept: in a conversation that the request names, as a stored completion, or
both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from headrace.errors import ServerError
from headrace.features import Uses
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation, Outcome
from headrace.store import Chain, ConversationLock, Store, StoredCompletion
from headrace.turns.dedupe import is_system, new_messages
from headrace.turns.history import let_go, walked
from headrace.turns.truncation import Carried, start_fitted
from headrace.turns.window import messages as messages_of
from headrace.turns.window import window, without_unanswered
from headrace.types import Conversation, Event, GenerateRequest, Message, ModelInfo
from headrace.wire import chat as wire
from headrace.wire import stored_completions
from headrace.wire.collected import Choice, Collected
from headrace.wire.conversation_id import NEW
from headrace.wire.items import Item, of_chat, of_choice, to_messages

log = logging.getLogger(__name__)

ITEMS_PER_MESSAGE = 4  # fetched at once; more if that is not enough


class ChatTurn:
    """`named`: the conversation, or NEW; None: none. `context_messages`: how many stored ones the model
    reads.

    Once it is started, it observes the generation, whose events end after what is kept is on the disk. Making
    one raises BadRequest.
    """

    def __init__(
        self, store: Store, owner: str, body: wire.ChatBody, *, named: str | None, context_messages: int
    ) -> None:
        self._store, self._owner, self._body = store, owner, body
        self._named, self._context_messages = named, context_messages
        self._metadata = stored_completions.metadata(body) if body.store else {}
        self._held: ConversationLock | None = None
        self._new: list[Item] = []  # what the request adds to the conversation
        self._info: ModelInfo | None = None
        self._head: dict[str, Any] = {}  # of the completion, or of its chunks
        self._collected = Collected(body.n or 1)
        self.is_streamed = bool(body.stream)
        self.is_lost = False  # the answer was given and could not be kept

    @property
    def headers(self) -> dict[str, str]:
        """Of the response, an error's too."""
        named = {} if self._named in (None, NEW) else {"X-Conversation-ID": str(self._named)}
        return {**named, **({"X-Headrace-Persisted": "false"} if self.is_lost else {})}

    def remark(self) -> str:
        """For the end of a stream, whose headers were sent before the answer could be stored; "": nothing."""
        return "X-Headrace-Persisted: false" if self.is_lost else ""

    async def start(
        self, gateway: Gateway, request: GenerateRequest, provider: str | None, *, uses: Uses
    ) -> Generation:
        """Raises ServerError: then nothing is kept but a new conversation, and that is free."""
        if self._named is None:
            await self._store.check()
            generation = await gateway.start(request, provider, uses=uses)
        else:
            generation = await self._start_in_conversation(gateway, request, provider, uses)
        self._info = generation.info
        self._head = wire.completion_head(generation.info)
        generation.observe(self)
        return generation

    def saw(self, event: Event) -> None:
        self._collected.push(event)

    async def ended(self, outcome: Outcome, _: Exception | None) -> None:
        """Store what is to be kept. The store's failures end here: an answer that is there is delivered."""
        try:
            if self._held is not None:
                await self._append(self._held, self._collected, outcome)
            if self._body.store and outcome == "completed":
                await self._save(self._collected)
        except ServerError as exc:
            self.is_lost = True
            log.error("the answer to a chat is not stored: %s", exc.message)

    def chunks(self, info: ModelInfo) -> wire.Chunks:
        return wire.Chunks(self._body, info, self._head)

    def completion(self, info: ModelInfo, collected: Collected) -> dict[str, Any]:
        return wire.completion(self._body, info, collected, self._head)

    async def _start_in_conversation(
        self, gateway: Gateway, request: GenerateRequest, provider: str | None, uses: Uses
    ) -> Generation:
        gateway.model(request.model, provider)  # before a conversation is made for one that there is not
        if self._named == NEW:
            self._named = (await self._store.conversations.create(self._owner, (), {})).id
        assert self._named is not None
        self._held = await self._store.conversations.lock(self._owner, self._named)
        try:
            sent = await walked(len(self._body.messages), partial(of_chat, self._body.messages))
            past = await self._past(sent)
            num_items = len(past) + len(sent)
            new = await walked(num_items, partial(new_messages, past, sent))
            self._new = [item for index in new for item in sent[index]]
            carried = await walked(num_items, partial(self._carried, past))
            asking = _Asking(request, new)
            return await start_fitted(gateway, provider, carried, asking, uses)
        except BaseException:
            await asyncio.shield(let_go(self._store, self._held))
            raise

    def _carried(self, past: Sequence[Item]) -> Carried:
        shown = window(past, self._context_messages, self._new)
        return Carried(without_unanswered(shown, self._new), self._new)

    async def _past(self, sent: Sequence[Sequence[Item]]) -> list[Item]:
        """The stored items that may matter: as many messages as the model may read, or as were sent, and all
        system messages before them.
        """
        assert self._held is not None
        wanted = max(self._context_messages, len(sent)) + 1  # the first may be cut
        limit = ITEMS_PER_MESSAGE * wanted
        while True:
            before, last = await self._store.items.window(self._owner, self._held.conversation.head, limit)
            items = [item.body for item in last]
            if len(items) < limit or len(messages_of([i for i in items if not is_system(i)])) >= wanted:
                return [*(item.body for item in before), *items]
            limit *= 2

    async def _append(self, held: ConversationLock, collected: Collected, outcome: Outcome) -> None:
        answer = self._answer(collected.choices.get(0, Choice()), outcome)
        add = Chain(held.conversation.head, [*self._new, *answer]) if answer else None
        await self._store.conversations.release(held, add)

    def _answer(self, choice: Choice, outcome: Outcome) -> list[Item]:
        """What is kept of it: all, or, when a stream's reader left, the text that there is."""
        if outcome == "completed":
            return of_choice(choice, "incomplete" if choice.reason == "length" else "completed")
        if outcome == "left" and self._body.stream and choice.text:
            return of_choice(replace(choice, calls=[]), "incomplete")
        return []

    async def _save(self, collected: Collected) -> None:
        assert self._info is not None
        body = self.completion(self._info, collected)
        completion = StoredCompletion(body["id"], body["created"], body["model"], body, self._metadata)
        await self._store.completions.save(self._owner, completion, stored_completions.asked(self._body))


@dataclass(frozen=True, slots=True)
class _Asking:
    """A request with stored items before its own messages. `new`: the indices of those not yet stored."""

    request: GenerateRequest
    new: Sequence[int]

    def __call__(self, items: Sequence[Item]) -> GenerateRequest:
        prompt = self.request.prompt
        assert isinstance(prompt, Conversation)
        own = [prompt.messages[index] for index in self.new]
        first = next((i for i, message in enumerate(own) if not _leads(message)), len(own))
        systems = to_messages([item for item in items if is_system(item)])
        past = to_messages([item for item in items if not is_system(item)])
        # system messages come first, because many chat templates want that
        messages = (*systems, *own[:first], *past, *own[first:])
        return replace(self.request, prompt=replace(prompt, messages=messages))


def _leads(message: Message) -> bool:
    return message.role in ("system", "developer")
