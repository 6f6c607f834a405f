"""A chat that is stored: in a conversation that the request names, as a stored completion, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from headrace.collected import Choice, Collected, Reasoned, Spoken
from headrace.features import Uses
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation, Outcome
from headrace.store import Chain, Store, StoredCompletion
from headrace.turns.dedupe import is_system, new_messages
from headrace.turns.history import run_aside
from headrace.turns.recorder import Recorder
from headrace.turns.truncation import CarriedItems, start_fitted
from headrace.turns.window import messages as messages_of
from headrace.turns.window import window, without_unanswered
from headrace.types import Conversation, Event, GenerateRequest, Json, Message, ModelInfo, ToolCall
from headrace.wire import chat as wire
from headrace.wire import stored_completions
from headrace.wire.chat import NEW
from headrace.wire.generation import Head, head
from headrace.wire.items import Item, of_chat, of_choice, to_messages

ITEMS_PER_MESSAGE = 4  # how many to read at first; more if that is not enough


class ChatTurn:
    """One chat. `conversation_id`: NEW creates a conversation, None uses none. `context_messages`: how many
    stored messages the model reads.

    It observes the generation, so the last event reaches the reader after the answer is on the disk. The
    constructor raises BadRequest.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        body: wire.ChatBody,
        *,
        conversation_id: str | None,
        context_messages: int,
    ) -> None:
        self._recorder, self._body = Recorder(store, owner), body
        self._conversation_id, self._context_messages = conversation_id, context_messages
        self._metadata = stored_completions.metadata(body) if body.store else {}
        self._new: list[Item] = []  # the request's items that the conversation does not have yet
        self._info: ModelInfo | None = None
        self._head: Head | None = None  # the members that the completion and its chunks share
        self._collected = Collected(body.n or 1)
        self.is_streamed = bool(body.stream)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the HTTP response, also of an error."""
        conversation = (
            {} if self._conversation_id in (None, NEW) else {"X-Conversation-ID": str(self._conversation_id)}
        )
        return {**conversation, **({"X-Headrace-Persisted": "false"} if self._recorder.is_lost else {})}

    def remark(self) -> str:
        """A comment for the end of a stream, whose headers were sent before the answer was stored; or ""."""
        return "X-Headrace-Persisted: false" if self._recorder.is_lost else ""

    async def start(
        self, gateway: Gateway, request: GenerateRequest, provider: str | None, *, uses: Uses
    ) -> Generation:
        """Start the generation. Raises ServerError; then nothing is stored but perhaps a new conversation,
        unlocked.
        """
        if self._conversation_id is None:
            await self._recorder.store.check()
            generation = await gateway.start(request, provider, uses=uses)
        else:
            generation = await self._start_in_conversation(gateway, request, provider, uses)
        self._info = generation.info
        self._head = head("chatcmpl", "chat.completion", generation.info)
        generation.observe(self)
        return generation

    def on_event(self, event: Event) -> None:
        self._collected.push(event)

    async def ended(self, outcome: Outcome, _: Exception | None) -> None:
        await self._recorder.commit("the answer to a chat", partial(self._save, outcome))

    def chunks(self, info: ModelInfo) -> wire.Chunks:
        return wire.Chunks(self._body, info, self._head)

    def completion(self, info: ModelInfo, collected: Collected) -> Json:
        return wire.completion(self._body, info, collected, self._head)

    async def _start_in_conversation(
        self, gateway: Gateway, request: GenerateRequest, provider: str | None, uses: Uses
    ) -> Generation:
        gateway.router.model(request.model, provider)  # raises ModelNotFound before a conversation is created
        recorder, conversations = self._recorder, self._recorder.store.conversations
        if self._conversation_id == NEW:
            self._conversation_id = (await conversations.create(recorder.owner, (), {})).id
        assert self._conversation_id is not None
        recorder.lock = await conversations.lock(recorder.owner, self._conversation_id)
        try:
            sent = await run_aside(len(self._body.messages), partial(of_chat, self._body.messages))
            past = await self._past(recorder.lock.conversation.head, sent)
            num_items = len(past) + len(sent)
            new = await run_aside(num_items, partial(new_messages, past, sent))
            self._new = [item for index in new for item in sent[index]]
            carried = await run_aside(num_items, partial(self._carried, past))
            return await start_fitted(gateway, provider, carried, _RequestBuilder(request, new), uses)
        except BaseException:
            await asyncio.shield(recorder.release())
            raise

    def _carried(self, past: Sequence[Item]) -> CarriedItems:
        shown = window(past, self._context_messages, self._new)
        return CarriedItems(without_unanswered(shown, self._new), self._new)

    async def _past(self, head: str | None, sent: Sequence[Sequence[Item]]) -> list[Item]:
        """The stored items to compare and to show: as many messages as the model reads or the client sent,
        and all system messages before them.
        """
        wanted = max(self._context_messages, len(sent)) + 1  # the first may lack its beginning
        limit = ITEMS_PER_MESSAGE * wanted
        while True:
            before, last = await self._recorder.store.items.window(self._recorder.owner, head, limit)
            items = [item.body for item in last]
            if len(items) < limit or len(messages_of([i for i in items if not is_system(i)])) >= wanted:
                return [*(item.body for item in before), *items]
            limit *= 2

    async def _save(self, outcome: Outcome) -> None:
        recorder = self._recorder
        if recorder.lock is not None:
            answer = self._answer(self._collected.choices.get(0, Choice()), outcome)
            head = recorder.lock.conversation.head
            add = Chain(head, [*self._new, *answer]) if answer else None
            await recorder.store.conversations.release(recorder.lock, add)
        if self._body.store and outcome == "completed":
            assert self._info is not None
            body = self.completion(self._info, self._collected)
            completion = StoredCompletion(body["id"], body["created"], body["model"], body, self._metadata)
            messages = stored_completions.request_messages(self._body)
            await recorder.store.completions.save(recorder.owner, completion, messages)

    def _answer(self, choice: Choice, outcome: Outcome) -> list[Item]:
        """The items to store: the whole answer, or the text so far if a stream's reader left."""
        if outcome == "completed":
            return of_choice(choice, "incomplete" if choice.reason == "length" else "completed")
        if outcome == "left" and self._body.stream and choice.text:
            return of_choice(_without_calls(choice), "incomplete")
        return []


@dataclass(frozen=True, slots=True)
class _RequestBuilder:
    """Adds stored items to a request, in the order that the model reads. `new`: the indices of the request's
    messages that are not stored yet.
    """

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


def _without_calls(choice: Choice) -> Choice:
    rest = [piece for piece in choice.in_order if not isinstance(piece, ToolCall)]
    in_order: list[Spoken | Reasoned | ToolCall] = []
    for is_text, run in groupby(rest, lambda piece: isinstance(piece, Spoken)):
        pieces = list(run)
        in_order += [Spoken("".join(piece.text for piece in pieces))] if is_text else pieces
    return replace(choice, calls=[], in_order=in_order)


def _leads(message: Message) -> bool:
    return message.role in ("system", "developer")
