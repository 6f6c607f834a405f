"""Facts of Anthropic's Messages API, for both directions: what is read from Anthropic, and what is written to
callers in its dialect. Source: the API reference at docs.anthropic.com, "Messages", "Errors" and "Streaming
Messages".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic_core import from_json
from typing_extensions import TypedDict

from headrace.dialects.values import an_object, count, valid
from headrace.finite import finite
from headrace.types import FinishReason, Thought, Usage

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
STOP_REASONS: Mapping[FinishReason, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}

# The types of errors and their statuses. An error inside a stream has a type only.
STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TYPE_OF_STATUS = {status: name for name, status in STATUS_OF_TYPE.items()} | {503: "overloaded_error"}

TOO_LONG = "prompt is too long"  # clients recognise an overflow of the context by these words

IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_IMAGE_STARTS = {"/9j/": "image/jpeg", "iVBORw0KGgo": "image/png", "R0lGOD": "image/gif"}  # in base64
_IMAGE_TYPE_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}

# How much a model thinks. Newer models take an effort, older ones a budget of tokens ("Extended thinking");
# the budgets for OpenAI's efforts are Headrace's choice.
EFFORTS = ("low", "medium", "high", "xhigh", "max")  # rising
BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}
MIN_BUDGET = 1024  # the least that the API accepts
_MEDIUM_FROM, _HIGH_FROM = 4096, BUDGETS["high"]  # tokens of a budget

WRAPPED = "arguments"  # the member that wraps arguments of a call which are no JSON object

_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
_THINKING = "thinking_tokens"


def error_type(status: int) -> str:
    """The type of an error that has this status."""
    return _TYPE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")


def image_type(media_type: str, data: str = "") -> str:
    """The API's name for a media type, which need not be one of IMAGE_TYPES. The beginning of the image's
    `data`, in base64, decides if it is known: the API refuses an image of another type than is said. Some
    callers say none.
    """
    plain = media_type.strip().lower()
    plain = _IMAGE_TYPE_ALIASES.get(plain, plain)
    if plain not in (*IMAGE_TYPES, "application/octet-stream"):
        return plain
    return next((type for start, type in _IMAGE_STARTS.items() if data.startswith(start)), plain)


def effort_of_budget(budget: int) -> str:
    """OpenAI's reasoning_effort for a budget of thinking tokens, for models that take no budgets."""
    if budget < _MEDIUM_FROM:
        return "low"
    return "medium" if budget < _HIGH_FROM else "high"


class SignedThinking(TypedDict):
    type: Literal["thinking"]
    thinking: str
    signature: str


class RedactedThinking(TypedDict):
    """Encrypted thinking, which only its provider can read."""

    type: Literal["redacted_thinking"]
    data: str


def thinking_block(thought: Thought) -> SignedThinking | RedactedThinking:
    """Write a thought as a content block, in requests as in answers."""
    if thought.redacted is not None:
        return {"type": "redacted_thinking", "data": thought.redacted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature or ""}


def tool_input(arguments: str) -> dict[str, Any]:
    """Parse the arguments of a call. A model may have written anything there, so text that is no JSON object,
    or breaks off, is wrapped in one: else it would look like a call with fewer arguments, or none.
    """
    text = valid(arguments)
    try:
        value = from_json(text.strip() or "{}")
    except ValueError:
        value = None
    return finite(value) if isinstance(value, dict) else {WRAPPED: text}


def counts_in(usage: object, before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Read the token counts in the usage of a message or an event. Counts are cumulative, and each event may
    leave out some, or say 0 (as some providers do at the end, of the prompt): those `before` it count then.
    """
    body = an_object(usage)
    numbers = {name: count(body.get(name)) for name in _COUNTS}
    numbers[_THINKING] = count(an_object(body.get("output_tokens_details")).get(_THINKING))
    counts = dict(before or {})
    for name, number in numbers.items():
        if number is not None and (number or name not in counts):
            counts[name] = number
    return counts


def usage_of(counts: Mapping[str, int]) -> Usage:
    """The neutral usage. `input_tokens` does not include tokens read from a cache or written to it."""
    uncached, written, read, answered = (counts.get(name, 0) for name in _COUNTS)
    return Usage(
        prompt_tokens=uncached + written + read,
        completion_tokens=answered,
        cached_tokens=read,
        reasoning_tokens=counts.get(_THINKING, 0),
        cache_write_tokens=written,
        is_known=bool(counts),
    )


class OutputTokensDetails(TypedDict):
    thinking_tokens: int


class TokenCounts(TypedDict):
    """The prompt's size is input_tokens + cache_creation_input_tokens + cache_read_input_tokens."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


def usage_body(usage: Usage) -> TokenCounts:
    """Write a usage: the reverse of `counts_in` and `usage_of`."""
    return {
        "input_tokens": max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
