"""What the tests of /v1/responses share: a strict client, and streams that are checked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import openai

from headrace.backends.fake import FakeBackend
from headrace.types import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from tests.serving import Served
from tests.wire.stream_order import in_pieces, read_stream

PATH = "/v1/responses"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
KEYS = ("one", "two")


def strict(server: Served, key: str = "one") -> openai.OpenAI:
    """A client that does not accept what is not as OpenAI's."""
    return server.client(key, is_strict=True)


def streamed(server: Served, body: dict[str, Any], seed: int = 0, path: str = PATH) -> list[dict[str, Any]]:
    """The events of a new response, read in pieces of any size, and checked."""
    raw = server.post(path, {**body, "stream": True})
    assert raw.status_code == 200, raw.text
    return read_stream(in_pieces(raw.content, seed))


def script(dice: random.Random) -> list[Event]:
    """An answer of thoughts, words and calls."""
    words = ["Sky", "is ", "blüe", "😀", "\n", '"']
    found: list[Event] = []
    if dice.random() < 0.5:
        found += [ReasoningDelta(0, dice.choice(words), 1) for _ in range(dice.randrange(1, 5))]
    num_calls = dice.randrange(3)
    if not num_calls or dice.random() < 0.5:
        found += [TextDelta(0, dice.choice(words), (), 1) for _ in range(dice.randrange(5))]
    for call in range(num_calls):
        found.append(ToolCallDelta(0, call, id=f"call_{call}", name="weather"))
        found += [ToolCallDelta(0, call, piece) for piece in ('{"city":', '"Paris"', "}")]
    reason = dice.choice(("stop", "length", "content_filter")) if not num_calls else "tool_calls"
    return [*found, Finished(0, reason, Usage(9, len(found), 4, 2))]  # type: ignore[arg-type]  # one of them


class Turns(FakeBackend):
    """Answers each request with the next of its scripts, the last one for ever."""

    def __init__(self, *scripts: Sequence[str | Event], delay_s: float = 0.0) -> None:
        super().__init__(scripts[0], delay_s=delay_s)
        self._scripts = list(scripts)

    async def _events(self, num_choices: int) -> Any:
        self.script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        async for event in super()._events(num_choices):
            yield event


def said(backend: FakeBackend) -> list[tuple[str, str]]:
    """What the model was asked last."""
    return [(message.role, message.text) for message in backend.conversations[-1].messages]


def call(name: str = "weather", arguments: str = '{"city":"Paris"}', id: str = "call_1") -> list[Event]:
    return [
        ToolCallDelta(0, 0, id=id, name=name),
        ToolCallDelta(0, 0, arguments),
        Finished(0, "tool_calls", Usage(5, 5)),
    ]
