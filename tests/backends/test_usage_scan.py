"""The usage of an answer is found in the bytes that are passed on."""

from __future__ import annotations

import json

import pytest

from headrace.backends.relay_reader import UsageScan
from headrace.dialects.anthropic import counts_in
from headrace.dialects.anthropic import usage_of as anthropic_usage
from headrace.dialects.openai import usage_of as openai_usage
from headrace.types import Usage


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


COUNTED = {
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
STARTED = {
    "input_tokens": 3,
    "cache_read_input_tokens": 10,
    "cache_creation_input_tokens": 7,
    "output_tokens": 1,
}
COUNTS: list[tuple[list[bytes], Usage | None]] = [
    ([], None),
    ([event({"choices": []})], None),
    ([event({"usage": None}), event({"usage": COUNTED}), event({"usage": None})], Usage(20, 5, 16, 2)),
    ([json.dumps({"choices": [], "usage": COUNTED}, indent=2).encode()], Usage(20, 5, 16, 2)),
    # running totals: the last counts
    ([event({"usage": {**COUNTED, "completion_tokens": n}}) for n in (1, 2, 3)], Usage(20, 3, 16, 2)),
    # Anthropic's is spread over its first and its last event
    (
        [event({"message": {"usage": STARTED}}), event({"usage": {"output_tokens": 9}})],
        Usage(20, 9, 10, 0, 7),
    ),
    # and some providers say 0 there of what they have counted before
    (
        [event({"message": {"usage": STARTED}}), event({"usage": {"input_tokens": 0, "output_tokens": 9}})],
        Usage(20, 9, 10, 0, 7),
    ),
    # a word in a text is none
    ([event({"content": 'my "usage": {"prompt_tokens": 7} "usage'})], None),
    ([b'data: {"usage": {"prompt_tokens": '], None),
    ([b'data: {"usage": {}}'], None),
    ([event({"usage": {"prompt_tokens": "many", "prompt_tokens_details": 5}})], None),
]  # fmt: skip


def anthropic(members: dict[str, object]) -> Usage | None:
    counts = counts_in(members)
    return anthropic_usage(counts) if counts else None


@pytest.mark.parametrize(("pieces", "usage"), COUNTS)
def test_usage_is_read_off_the_pieces(pieces: list[bytes], usage: Usage | None) -> None:
    found = UsageScan(anthropic if b"input_tokens" in b"".join(pieces) else openai_usage)
    for piece in pieces:
        found.push(piece)
    assert found.usage() == usage


BESIDE = {
    "Moonshot": ({"cached_tokens": 8}, Usage(20, 5, 8)),
    "DeepSeek": ({"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 12}, Usage(20, 5, 8)),
    "a proxy of Anthropic's": (
        {"cache_read_input_tokens": 8, "cache_creation_input_tokens": 3}, Usage(20, 5, 8, 0, 3),
    ),
    "LiteLLM": (
        {"prompt_tokens_details": {"cached_tokens": 8, "cache_creation_tokens": 3}}, Usage(20, 5, 8, 0, 3),
    ),
    "Perplexity": ({"reasoning_tokens": 4, "cost": {"total_cost": 0.1}}, Usage(20, 5, 0, 4)),
    "more than there are": ({"prompt_cache_hit_tokens": 80}, Usage(20, 5, 20)),
    "no counts": ({"cached_tokens": "many", "reasoning_tokens": None}, Usage(20, 5)),
}  # fmt: skip


@pytest.mark.parametrize(("members", "usage"), BESIDE.values(), ids=BESIDE)
def test_details_beside_the_counts_are_read(members: dict[str, object], usage: Usage) -> None:
    assert openai_usage({"prompt_tokens": 20, "completion_tokens": 5, **members}) == usage
