"""Facts of OpenAI's API, for both directions: what is read from providers that speak its dialect, and what is
written to callers. Source: OpenAI's API reference, "Chat Completions" and "Responses".
"""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headrace.dialects.values import Object, an_object, count, objects
from headrace.types import Usage


class PromptTokensDetails(TypedDict):
    cached_tokens: Annotated[int, Field(description="Found in the prefix cache, not computed.")]
    cache_write_tokens: NotRequired[
        Annotated[int, Field(description="Put into a provider's cache, if any were.")]
    ]


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: int
    # of the request's prediction: computed ahead and part of the completion, or in vain and no part of it
    accepted_prediction_tokens: NotRequired[int]
    rejected_prediction_tokens: NotRequired[int]


class UsageBody(TypedDict):
    """The usage of chat and text completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class InputTokensDetails(TypedDict):
    cached_tokens: Annotated[int, Field(description="Found in a cache, not computed.")]
    cache_write_tokens: Annotated[int, Field(description="Put into a provider's cache.")]


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: CompletionTokensDetails
    total_tokens: int


DONE = "[DONE]"  # the data of the event that ends a stream


def is_done(data: str) -> bool:
    """Whether an event's data ends a stream: DONE, which some providers write in lower case, in quotes,
    without the brackets or with more behind it.
    """
    beginning = data[:16].strip().strip('"').upper()
    return beginning.startswith(DONE) or beginning == "DONE"


# The counts of a usage and the objects with their details: in chat completions, then in responses.
_PROMPT = ("prompt_tokens", "input_tokens")
_COMPLETION = ("completion_tokens", "output_tokens")
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details")
# some of the details beside the counts: Moonshot's, DeepSeek's, and Anthropic's from proxies of it
_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
_WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_REASONING = ("reasoning_tokens",)


def usage_of(body: object) -> Usage | None:
    """Read a usage, tolerating odd shapes. None if it lacks the size of the prompt."""
    usage = an_object(body)
    prompt, completion = _first_count(usage, _PROMPT), _first_count(usage, _COMPLETION)
    is_odd = completion is None and any(usage.get(name) is not None for name in _COMPLETION)
    if prompt is None or is_odd:
        return None
    of_prompt, of_completion = (
        _first_object(usage, _PROMPT_DETAILS),
        _first_object(usage, _COMPLETION_DETAILS),
    )
    of_prompt, of_completion = {**usage, **of_prompt}, {**usage, **of_completion}
    return Usage(
        prompt,
        completion or 0,
        min(_first_count(of_prompt, _CACHED) or 0, prompt),
        _first_count(of_completion, _REASONING) or 0,
        min(_first_count(of_prompt, _WRITTEN) or 0, prompt),
        count(of_completion.get("accepted_prediction_tokens")) or 0,
        count(of_completion.get("rejected_prediction_tokens")) or 0,
    )


def usage_in(chunk: Object) -> object:
    """The usage of a chunk, which some providers put into a choice or into `x_groq`; None: it has none."""
    places = (chunk, an_object(chunk.get("x_groq")), *objects(chunk.get("choices")))
    return next((place["usage"] for place in places if place.get("usage")), None)


def usage_body(usage: Usage) -> UsageBody | None:
    """Write the usage of chat and text completions, which `usage_of` reads; None if it is unknown."""
    if not usage.is_known:
        return None
    prompt_details: PromptTokensDetails = {"cached_tokens": usage.cached_tokens}
    if usage.cache_write_tokens:
        prompt_details["cache_write_tokens"] = usage.cache_write_tokens
    details: CompletionTokensDetails = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.accepted_prediction_tokens or usage.rejected_prediction_tokens:
        details["accepted_prediction_tokens"] = usage.accepted_prediction_tokens
        details["rejected_prediction_tokens"] = usage.rejected_prediction_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": details,
    }


def responses_usage_body(usage: Usage) -> ResponseUsage | None:
    """Write the usage of a response, which `usage_of` reads; None if it is unknown."""
    if not usage.is_known:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _first_count(body: Object, names: tuple[str, ...]) -> int | None:
    for name in names:
        if (number := count(body.get(name))) is not None:
            return number
    return None


def _first_object(body: Object, names: tuple[str, ...]) -> Object:
    for name in names:
        value = body.get(name)
        if value and isinstance(value, dict):
            return value
    return {}
