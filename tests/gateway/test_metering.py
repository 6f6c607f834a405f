import json
from typing import Any

import pytest

from headrace.errors import ProviderLimited
from headrace.gateway.metering import Tally
from headrace.types import RelayRequest, Usage
from headrace.verbatim import Verbatim


def tally(*pieces: bytes) -> Tally:
    found = Tally(RelayRequest("openai", "/chat/completions", Verbatim(b"{}"), "m", True))
    for piece in pieces:
        found.saw(piece)
    return found


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
    # a word in a text is none
    ([event({"content": 'my "usage": {"prompt_tokens": 7} "usage'})], None),
    ([b'data: {"usage": {"prompt_tokens": '], None),
    ([b'data: {"usage": {}}'], None),
    ([event({"usage": {"prompt_tokens": "many", "prompt_tokens_details": 5}})], Usage(0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("pieces", "usage"), COUNTS)
def test_usage_is_read_off_the_pieces(pieces: list[bytes], usage: Usage | None) -> None:
    assert tally(*pieces).usage == usage


def test_an_error_is_told_by_its_status() -> None:
    errors: list[tuple[Exception, Any]] = [
        (ProviderLimited("later"), (429, "rate_limit_exceeded")),
        (KeyError("ours"), (500, None)),
    ]
    for error, told in errors:
        found = tally()
        found.failed(error)
        assert (found.status, found.code) == told
        assert found.first_byte_s is None
