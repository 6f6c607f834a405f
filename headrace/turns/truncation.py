"""`truncation: auto`: what is carried over is shortened from its beginning, a whole turn at a time, until the
model's context holds it. System and developer messages stay, and so does what this turn says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from headrace.errors import BadRequest, ContextTooLong, TextTooLong
from headrace.features import Uses
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation
from headrace.gateway.race import Until
from headrace.turns.dedupe import is_system
from headrace.turns.history import walked
from headrace.turns.window import OUTPUTS
from headrace.types import Conversation, GenerateRequest, TokenizeRequest
from headrace.wire.items import Item

ANSWER = 1024  # tokens that are kept free for the answer, but at most a quarter of the context

Asking = Callable[[Sequence[Item]], GenerateRequest]  # with these items


class Carried:
    """Items that are carried over, as turns; `input` answers the calls of the last of them."""

    def __init__(self, items: Sequence[Item], input: Sequence[Item]) -> None:
        self.pinned = [item for item in items if is_system(item)]
        self.turns = list(_turns([item for item in items if not is_system(item)]))
        answered = {item["call_id"] for item in input if item["type"] in OUTPUTS}
        needed = [any(item.get("call_id") in answered for item in turn) for turn in self.turns]
        self.num_droppable = needed.index(True) if True in needed else len(self.turns)
        self._items, self._num_added = items, len(input)

    @property
    def fewest(self) -> Sequence[Item]:
        """What is left when all is left out that may be."""
        return self.without(self.num_droppable)

    @property
    def num_items(self) -> int:
        return len(self._items) + self._num_added

    def without(self, count: int) -> Sequence[Item]:
        """The `count` oldest turns."""
        if not count:
            return self._items
        return [*self.pinned, *(item for turn in self.turns[count:] for item in turn)]


def _turns(items: Sequence[Item]) -> Iterator[list[Item]]:
    """A turn begins with what a user says, and ends before the next one."""
    turn: list[Item] = []
    for item in items:
        if turn and (item.get("role") == "user" or item["type"] == "compaction"):
            yield turn
            turn = []
        turn.append(item)
    if turn:
        yield turn


async def start_fitted(
    gateway: Gateway, provider: str | None, carried: Carried, asking: Asking, uses: Uses
) -> Generation:
    """Started with as much as fits. Raises ContextTooLong when this turn alone does not."""
    fewest = await _fewest(gateway, provider, carried, asking)
    count = fewest or 0
    while True:
        try:
            asked = await walked(carried.num_items, partial(asking, carried.without(count)))
            generation = await gateway.start(asked, provider, uses=uses)
            return generation if fewest is not None else await _begun(generation)
        except ContextTooLong:
            if count == carried.num_droppable:
                raise
            count = min(2 * count + 1, carried.num_droppable)


async def check_fits(gateway: Gateway, provider: str | None, request: GenerateRequest) -> None:
    """Raises ContextTooLong where the tokens can be counted here, and are too many for the model."""
    room = gateway.model(request.model, provider).max_model_len
    if room is None or _size(request) <= room // 8:  # a character has four tokens at most
        return
    try:
        fits = await _fits(gateway, provider, request, room - 1)
    except BadRequest:
        return  # nobody here can count them
    if not fits:
        raise ContextTooLong(
            f"This model's maximum context length is {room} tokens. However, your input is longer. Please "
            "reduce its length.",
            param="input",
            limit=room,
        )


async def _begun(generation: Generation) -> Generation:
    """Some backends find out that a prompt is too long when they are asked, some only when they answer."""
    try:
        async with Until(generation.interrupted):
            await generation.first()
    except BaseException:
        await generation.aclose()
        raise
    return generation


async def _fewest(gateway: Gateway, provider: str | None, carried: Carried, asking: Asking) -> int | None:
    """How many turns have to go. None: nobody here can count the model's tokens."""
    low, high = 0, carried.num_droppable
    if not high:
        return 0
    first = await walked(carried.num_items, partial(asking, carried.without(0)))
    room = gateway.model(first.model, provider).max_model_len
    if room is None:
        return None
    room -= min(first.sampling.max_tokens or ANSWER, room // 4)
    if _size(first) <= room:
        return 0
    try:
        if await _fits(gateway, provider, first, room):
            return 0
        while low < high:  # the tokens of fewer turns are fewer
            middle = (low + high) // 2
            asked = await walked(carried.num_items, partial(asking, carried.without(middle)))
            fits = await _fits(gateway, provider, asked, room)
            low, high = (low, middle) if fits else (middle + 1, high)
    except BadRequest:
        return None
    return low


def _size(request: GenerateRequest) -> int:
    """More than its tokens, nearly always, and much cheaper: half its characters. A token has about four."""
    assert isinstance(request.prompt, Conversation)
    texts = sum(len(message.text) for message in request.prompt.messages)
    calls = sum(len(call.arguments) for message in request.prompt.messages for call in message.tool_calls)
    tools = sum(len(str(tool.parameters)) + len(tool.description or "") for tool in request.prompt.tools)
    return (texts + calls + tools) // 2


async def _fits(gateway: Gateway, provider: str | None, request: GenerateRequest, room: int) -> bool:
    assert isinstance(request.prompt, Conversation)
    asked = TokenizeRequest(request.model, request.prompt, False)
    try:
        return len(await gateway.tokenize(asked, provider)) <= room
    except TextTooLong:  # whatever a model has room for is counted
        return False
