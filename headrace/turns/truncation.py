"""`truncation: auto`: the history is shortened from its beginning, a whole turn at a time, until it fits the
model's context. System and developer messages stay, and so does this turn's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from headrace.errors import BadRequest, ContextTooLong, TextTooLong
from headrace.features import Uses
from headrace.gateway.gateway import Gateway
from headrace.gateway.generation import Generation
from headrace.gateway.lifetime import Until
from headrace.turns.dedupe import is_system
from headrace.turns.history import run_aside
from headrace.turns.window import OUTPUTS
from headrace.types import Conversation, GenerateRequest, TokenizeRequest
from headrace.wire.items import Item

ANSWER = 1024  # tokens reserved for the answer, but at most a quarter of the context

BuildRequest = Callable[[Sequence[Item]], GenerateRequest]  # on top of these items of the history


class CarriedItems:
    """The history, divided into turns. `input`: this turn's items; turns whose calls it answers are not
    dropped.
    """

    def __init__(self, items: Sequence[Item], input: Sequence[Item]) -> None:
        self.pinned = [item for item in items if is_system(item)]
        self.turns = list(_turns([item for item in items if not is_system(item)]))
        answered = {item["call_id"] for item in input if item["type"] in OUTPUTS}
        needed = [any(item.get("call_id") in answered for item in turn) for turn in self.turns]
        self.num_droppable = needed.index(True) if True in needed else len(self.turns)
        self._items, self._num_added = items, len(input)

    @property
    def fewest(self) -> Sequence[Item]:
        """The shortest history that may be sent."""
        return self.without(self.num_droppable)

    @property
    def num_items(self) -> int:
        return len(self._items) + self._num_added

    def without(self, count: int) -> Sequence[Item]:
        """The items without the `count` oldest turns."""
        if not count:
            return self._items
        return [*self.pinned, *(item for turn in self.turns[count:] for item in turn)]


def _turns(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Divide items into turns; each begins with a user's message or a summary."""
    turn: list[Item] = []
    for item in items:
        if turn and (item.get("role") == "user" or item["type"] == "compaction"):
            yield turn
            turn = []
        turn.append(item)
    if turn:
        yield turn


async def start_fitted(
    gateway: Gateway, provider: str | None, carried: CarriedItems, build_request: BuildRequest, uses: Uses
) -> Generation:
    """Start a generation with as much history as fits. Raises ContextTooLong if even the shortest does not.

    Where tokens can be counted, the count says how much fits; elsewhere ever shorter histories are tried.
    """
    num_to_drop = await _num_to_drop(gateway, provider, carried, build_request)
    count = num_to_drop or 0
    while True:
        try:
            request = await run_aside(carried.num_items, partial(build_request, carried.without(count)))
            generation = await gateway.start(request, provider, uses=uses)
            return generation if num_to_drop is not None else await _with_first_event(generation)
        except ContextTooLong:
            if count == carried.num_droppable:
                raise
            count = min(2 * count + 1, carried.num_droppable)


async def check_fits(gateway: Gateway, provider: str | None, request: GenerateRequest) -> None:
    """Raise ContextTooLong if the tokens can be counted here and are too many for the model."""
    room = gateway.router.model(request.model, provider).max_model_len
    if room is None or _size(request) <= room // 8:  # even at four tokens a character it fits
        return
    try:
        fits = await _fits(gateway, provider, request, room - 1)
    except BadRequest:
        return  # this model's tokens cannot be counted here
    if not fits:
        raise ContextTooLong(
            f"This model's maximum context length is {room} tokens. However, your input is longer. Please "
            "reduce its length.",
            param="input",
            limit=room,
        )


async def _with_first_event(generation: Generation) -> Generation:
    """Wait for the first event: some backends find only then that a prompt is too long. Raises
    ContextTooLong.
    """
    try:
        async with Until(generation.interrupted):
            await generation.first()
    except BaseException:
        await generation.aclose()
        raise
    return generation


async def _num_to_drop(
    gateway: Gateway, provider: str | None, carried: CarriedItems, build_request: BuildRequest
) -> int | None:
    """How many turns to drop, by binary search; None if the model's tokens cannot be counted here."""
    low, high = 0, carried.num_droppable
    if not high:
        return 0
    first = await run_aside(carried.num_items, partial(build_request, carried.without(0)))
    room = gateway.router.model(first.model, provider).max_model_len
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
            request = await run_aside(carried.num_items, partial(build_request, carried.without(middle)))
            fits = await _fits(gateway, provider, request, room)
            low, high = (low, middle) if fits else (middle + 1, high)
    except BadRequest:
        return None
    return low


def _size(request: GenerateRequest) -> int:
    """A cheap upper bound of the tokens, nearly always: half the characters. A token has about four."""
    assert isinstance(request.prompt, Conversation)
    texts = sum(len(message.text) for message in request.prompt.messages)
    calls = sum(len(call.arguments) for message in request.prompt.messages for call in message.tool_calls)
    tools = sum(len(str(tool.parameters)) + len(tool.description or "") for tool in request.prompt.tools)
    return (texts + calls + tools) // 2


async def _fits(gateway: Gateway, provider: str | None, request: GenerateRequest, room: int) -> bool:
    """Whether the prompt has at most `room` tokens. Raises BadRequest if they cannot be counted here."""
    assert isinstance(request.prompt, Conversation)
    tokenize = TokenizeRequest(request.model, request.prompt, False)
    try:
        return len(await gateway.tokenize(tokenize, provider)) <= room
    except TextTooLong:  # longer than any text that is counted, and so than any model's context
        return False
