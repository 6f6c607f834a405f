"""L16: an overflow that a provider tells of, by a code or in its own words: relayed, translated, along a
route, and in Anthropic's shape.
"""

from __future__ import annotations

import json

import pytest

from headrace.backends.refusals import Refusal, to_error
from headrace.errors import ContextTooLong
from tests.api.relays import CHUNK, HI, STREAM, Relays
from tests.backends.ways import CHAT, MESSAGES, STRICT, ask
from tests.upstream import Answer, answer, sse

LONG = {
    "L16 OpenAI": (
        "This model's maximum context length is 4097 tokens. However, you requested 4927 tokens (3927 in the "
        "messages, 1000 in the completion).",
        (4097, 4927),
    ),
    "L16 Anthropic": ("prompt is too long: 208310 tokens > 200000 maximum", (200000, 208310)),
    "L16 Google": (
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
        (1048575, 1196265),
    ),
    "L16 xAI": (
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        (131072, 537812),
    ),
    "L16 llama.cpp": (
        "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        (4096, 9000),
    ),
    "L16 OpenRouter": (
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 215000 tokens",
        (131072, 215000),
    ),
    "L16 Copilot": ("prompt token count of 128937 exceeds the limit of 128000", (128000, 128937)),
    "L16 Groq": ("Please reduce the length of the messages or completion.", (None, None)),
    "L16 OpenAI, responses": ("Your input exceeds the context window of this model.", (None, None)),
    "L16 Bedrock": ("Input is too long for requested model.", (None, None)),
    "L16 Ollama": ("prompt too long; exceeded max context length by 4 tokens", (None, None)),
    "L16 LM Studio": (
        "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with "
        "context length of only 4096 tokens",
        (None, None),
    ),
    "L16 TGI": (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` "
        "tokens and 20 `max_new_tokens`",
        (None, None),
    ),
    "L16 vLLM": (
        "The engine prompt length 5000 exceeds the max_model_len 4096. Please reduce prompt.",
        (4096, 5000),
    ),
    "L16 SGLang": (
        "Input length (5000 tokens) exceeds the maximum allowed length (4095 tokens).",
        (4095, 5000),
    ),
    "L16 TensorRT-LLM": (
        "The sum of prompt length (5000.0), query length (0) should not exceed max_num_tokens (4096)",
        (None, None),
    ),
    "L16 Z.ai": ("Prompt exceeds max length", (None, None)),
    "L16 Cohere": ("too many tokens: size limit exceeded by 11326 tokens.", (None, None)),
    "L16 Kimi": ("Your request exceeded model token limit: 262144 (requested: 291351)", (None, None)),
}


@pytest.mark.parametrize(("words", "numbers"), LONG.values(), ids=LONG)
def test_an_overflow_is_recognised_by_its_words(words: str, numbers: tuple[int | None, int | None]) -> None:
    error = to_error(Refusal("p", 400, words))
    assert isinstance(error, ContextTooLong)
    assert (error.limit, error.requested) == numbers
    assert words in error.message


@pytest.mark.parametrize(
    ("code", "type"), [("context_length_exceeded", None), (None, "exceed_context_size_error")]
)
def test_an_overflow_is_recognised_by_its_code_whatever_it_says(code: str | None, type: str | None) -> None:
    assert isinstance(to_error(Refusal("p", 400, "zu lang", code, type)), ContextTooLong)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 48000."),
        (401, "prompt is too long"),
        (400, "max_tokens is too large: 9. This model supports at most 8 completion tokens"),
        (400, "messages: too long by 3 items"),
        (400, "tools.0.function.name exceeds the maximum length of 64"),
        (400, "user exceeds the maximum allowed length"),
    ],
)
def test_what_only_sounds_like_an_overflow_is_none(status: int, words: str) -> None:
    assert not isinstance(to_error(Refusal("p", status, words)), ContextTooLong)


OURS = {
    "error": {
        "message": "This model's maximum context length is 256 tokens. However, you requested 300 tokens "
        "(299 in the messages, 1 in the completion).",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
}


@pytest.mark.parametrize("way", ["translated", "anthropic", "translated stream", "anthropic stream"])
def test_l16_headrace_before_headrace_falls_back_on_context(relay: Relays, way: str) -> None:
    relay.provider.play(answer(OURS, status=400))
    path = MESSAGES if "anthropic" in way else CHAT
    body = {"model": "long", "messages": HI, "max_tokens": 9, "stream": "stream" in way}
    status, headers, _ = relay.ask(path, json.dumps(body).encode())
    assert (status, headers["x-headrace-backend"], headers["x-headrace-attempts"]) == (200, "fa", "2")


def test_l16_a_relayed_request_falls_back_on_context_too(relay: Relays) -> None:
    relay.provider.play(answer(OURS, status=400), STREAM)
    body = json.dumps({"model": "longer", "messages": HI, "stream": True}).encode()
    status, headers, raw = relay.ask(CHAT, body)
    assert (status, headers["x-headrace-backend"], headers["x-headrace-attempts"]) == (200, "ce", "2")
    assert raw.endswith(b"data: [DONE]\n\n")


def test_l16_an_overflow_of_anthropic_upstreams_is_reported_in_both_dialects(relay: Relays) -> None:
    error = {"type": "invalid_request_error", "message": "prompt is too long: 300 tokens > 256 maximum"}
    relay.provider.play(*[answer({"type": "error", "error": error}, status=400)] * 2)
    _, _, chat = ask(relay, "translated", model="an:m")
    assert chat["code"] == "context_length_exceeded"
    assert chat["message"].startswith(
        "This model's maximum context length is 256 tokens. However, you requested 300 tokens."
    )
    _, _, relayed = ask(relay, "anthropic", model="an:m")
    assert relayed["message"] == "prompt is too long: 300 tokens > 256 maximum"


def test_l16_in_a_stream_that_has_begun_the_words_are_kept(relay: Relays) -> None:
    relay.provider.play(Answer(pieces=sse(CHUNK, OURS)))
    body = json.dumps({"model": "up:m", "messages": HI, "stream": True}).encode()
    _, _, raw = relay.ask(CHAT, body, **STRICT)
    assert b"maximum context length is 256 tokens" in raw
    assert b"context_length_exceeded" in raw
