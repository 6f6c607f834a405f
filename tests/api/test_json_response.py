"""A large answer, written in pieces off the event loop, is byte for byte the same as in one go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace.api.json_response import JSONResponse, json_answer
from headrace.offload import SMALL

TOKEN = {"token": "é\ud800", "logprob": float("-inf"), "bytes": [1, 2], "top_logprobs": []}
ANSWERS: list[dict[str, Any]] = [
    {},
    {"choices": []},
    {"a": [[], {}, None, True, 1.5, '\u2028"\\\n'], "b": {"": [[[[[[[1, 2], {"x": {}}]]]]]]}},
    {"choices": [{"logprobs": {"content": [TOKEN] * 50}}] * 3, "usage": None},
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("size", [0, SMALL + 1])
def test_it_is_the_same_in_pieces(answer: dict[str, Any], size: int) -> None:
    written = asyncio.run(json_answer(size, lambda: answer, {"x-a": "b"}))
    assert written.body == JSONResponse(answer).body
    assert (written.headers["x-a"], written.headers["content-type"]) == ("b", "application/json")
