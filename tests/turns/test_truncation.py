from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import BadRequest, ContextTooLong
from headrace.features import NO_USES
from headrace.gateway.gateway import Gateway
from headrace.turns.truncation import CarriedItems, start_fitted
from headrace.types import Conversation, Event, GenerateRequest, ModelInfo, Sampling, TokenizeRequest
from headrace.wire.items import Item, to_items, to_messages


def user(text: str) -> Item:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def system(text: str) -> Item:
    return {**user(text), "role": "system"}


def answer(text: str) -> Item:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def called(id: str) -> Item:
    return {"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}


def result(id: str) -> Item:
    return {"type": "function_call_output", "call_id": id, "output": "r"}


def texts(items: Sequence[Item]) -> list[str]:
    return [str(item.get("call_id") or item["content"][0]["text"]) for item in items]


def test_whole_turns_go_and_system_messages_stay() -> None:
    items = [user("a"), called("1"), result("1"), answer("A"), system("s"), user("b"), answer("B"), user("c")]
    carried = CarriedItems(items, [user("now")])
    assert carried.num_droppable == 3
    assert texts(carried.without(0)) == texts(items)
    assert texts(carried.without(1)) == ["s", "b", "B", "c"]
    assert texts(carried.without(2)) == ["s", "c"]
    assert texts(carried.without(3)) == ["s"]


def test_a_turn_whose_call_the_input_answers_stays() -> None:
    carried = CarriedItems([user("a"), answer("A"), user("b"), called("1")], [result("1")])
    assert carried.num_droppable == 1
    assert texts(carried.without(1)) == ["b", "1"]


def test_summary_is_a_turn() -> None:
    carried = CarriedItems([{"type": "compaction", "encrypted_content": "x"}, user("a")], [])
    assert carried.num_droppable == 2


class Small(FakeBackend):
    """Accepts prompts of fewer than `longest` tokens of four characters. Without a tokenizer, it refuses
    longer ones only with the first event.
    """

    def __init__(self, longest: int, *, has_tokens: bool) -> None:
        super().__init__(["ok"])
        self.longest, self.has_tokens = longest, has_tokens

    def models(self) -> list[ModelInfo]:
        return [replace(super().models()[0], max_model_len=self.longest)]

    @asynccontextmanager
    async def generate(self, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Event]]:
        if self.has_tokens:
            self._check(request)
        async with super().generate(request) as events:
            yield self._checked(request, events)

    async def _checked(self, request: GenerateRequest, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        self._check(request)
        async for event in events:
            yield event

    def _check(self, request: GenerateRequest) -> None:
        assert isinstance(request.prompt, Conversation)
        if len("\n".join(message.text for message in request.prompt.messages)) >= 4 * self.longest:
            raise ContextTooLong("too long")

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        if not self.has_tokens:
            raise BadRequest("no tokens")
        return (await super().tokenize(request))[::4]


def fitted(
    backend: Small, carried: CarriedItems, input: Sequence[Item], max_tokens: int | None = None
) -> list[str]:
    """The texts of the messages that the model gets in the end."""

    def build_request(items: Sequence[Item]) -> GenerateRequest:
        messages = to_messages([*items, *input])
        return GenerateRequest("fake", Conversation(messages), Sampling(max_tokens=max_tokens))

    async def run() -> list[Any]:
        gateway = Gateway([backend])
        try:
            generation = await start_fitted(gateway, None, carried, build_request, NO_USES)
            assert [event async for event in generation]
            await generation.aclose()
        finally:
            assert gateway.num_active == 0
        return [message.text for message in backend.conversations[-1].messages]

    return asyncio.run(run())


ITEMS = [item for n in range(8) for item in (user(f"{n}" * 40), answer(f"{n}" * 38))]  # 20 tokens


def test_with_a_tokenizer_the_fewest_turns_are_dropped() -> None:
    input = to_items("now", "input")
    assert fitted(Small(1000, has_tokens=True), CarriedItems(ITEMS, input), input)[0] == "0" * 40
    small = Small(100, has_tokens=True)
    remaining = fitted(small, CarriedItems(ITEMS, input), input, max_tokens=10)
    assert remaining == [*(f"{n}" * length for n in (4, 5, 6, 7) for length in (40, 38)), "now"]
    assert len(small.requests) == 1


def test_a_quarter_of_the_context_is_reserved_for_the_answer() -> None:
    input = to_items("now", "input")
    assert fitted(Small(100, has_tokens=True), CarriedItems(ITEMS, input), input)[0] == "5" * 40


def test_without_a_tokenizer_shorter_histories_are_tried() -> None:
    input = to_items("now", "input")
    backend = Small(100, has_tokens=False)
    assert fitted(backend, CarriedItems(ITEMS, input), input)[0] == "7" * 40
    assert len(backend.requests) == 4


@pytest.mark.parametrize("has_tokens", [True, False])
def test_an_input_that_does_not_fit_alone_is_refused(has_tokens: bool) -> None:
    input = to_items("x" * 400, "input")
    backend = Small(100, has_tokens=has_tokens)
    with pytest.raises(ContextTooLong):
        fitted(backend, CarriedItems(ITEMS, input), input)
    assert backend.num_active == 0
