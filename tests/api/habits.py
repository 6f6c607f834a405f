"""What the tests of providers' habits share: an answer that is played, and what a caller hears of it."""

from __future__ import annotations

import json
from typing import Any

from tests.api.relays import Relays
from tests.heard import Heard, Way
from tests.upstream import Answer

Expected = tuple[str, str, list[list[str]], str]  # text, reasoning, calls, finish reason

HELLO: Expected = ("Hello", "", [], "stop")


def called(*calls: list[str]) -> Expected:
    return ("", "", list(calls), "tool_calls")


def raw(*data: str) -> list[bytes]:
    """Events with this data, which need not be JSON."""
    return [f"data: {one}\n\n".encode() for one in data]


def hear(
    relay: Relays, way: Way, *played: Answer, model: str = "up:m", path: str | None = None, **members: Any
) -> Heard:
    """Send a request one way. `path`: where the provider plays its answers; None: at any path."""
    relay.provider.play(*played, path=path)
    status, _, body = relay.ask(way.path, way.body(model, **members), **way.headers)
    return way.heard(status, body)


def check(heard: Heard, expected: Expected) -> None:
    """Calls are compared by the values of their arguments, and must have different ids."""
    text, reasoning, calls, reason = expected
    assert heard.error is None
    assert (heard.text, heard.reasoning, heard.reason) == (text, reasoning, reason)
    assert _parsed(heard.calls) == _parsed(calls)
    assert len(set(heard.ids)) == len(heard.ids)


def _parsed(calls: list[list[str]]) -> list[Any]:
    return [[name, json.loads(arguments)] for name, arguments in calls]
