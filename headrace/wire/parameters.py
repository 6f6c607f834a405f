"""What becomes of each member of a request: honoured, refused (it would change the output), or ignored and
named.

A refused member is let through while it has the value that changes nothing (`frequency_penalty: 0`, `tools:
[]`), because clients send their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.wire.generation import GenerationBody, ignored_stream_options

Neutral = Callable[[Any], bool]


def equals(*values: object) -> Neutral:
    return lambda value: any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in values
    )


NOTHING = equals()
EMPTY = equals({}, [])

# Neither changes the output: they are for the provider's bookkeeping, and named in X-Headrace-Ignored.
HARMLESS = frozenset(
    {
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# These change the output and this server cannot honour them yet; the value beside each is the one that
# changes nothing.
SHARED_REFUSED: dict[str, Neutral] = {
    "allowed_token_ids": NOTHING,
    "bad_words": EMPTY,
    "frequency_penalty": equals(0),
    "guided_choice": NOTHING,
    "guided_grammar": NOTHING,
    "guided_json": NOTHING,
    "guided_regex": NOTHING,
    "logit_bias": EMPTY,
    "presence_penalty": equals(0),
    "repetition_penalty": equals(1),
    "skip_special_tokens": equals(True),
    "stop_token_ids": EMPTY,
    "truncate_prompt_tokens": NOTHING,
}
CHAT_REFUSED: dict[str, Neutral] = {
    **SHARED_REFUSED,
    "add_generation_prompt": equals(True),
    "audio": NOTHING,
    "chat_template": NOTHING,
    "chat_template_kwargs": EMPTY,
    "continue_final_message": equals(False),
    "echo": equals(False),
    "function_call": equals("none", "auto"),
    "functions": EMPTY,
    "logprobs": equals(False),
    "modalities": equals(["text"]),
    "reasoning_effort": NOTHING,
    "response_format": equals({"type": "text"}),
    "tool_choice": equals("none", "auto"),
    "tools": EMPTY,
    "top_logprobs": equals(0),
    "verbosity": NOTHING,
    "web_search_options": NOTHING,
}
COMPLETION_REFUSED: dict[str, Neutral] = {
    **SHARED_REFUSED,
    "best_of": equals(1),
    "echo": equals(False),
    "logprobs": NOTHING,
    "suffix": equals(""),
}


def sort_out(body: GenerationBody, refused: Mapping[str, Neutral], *, strict: bool = False) -> dict[str, str]:
    """The header X-Headrace-Ignored, if there is anything to name.

    Raises UnsupportedParameter for a member that would change the output; with `strict`, BadRequest for
    unknown ones.
    """
    given = {name: value for name, value in (body.model_extra or {}).items() if value is not None}
    for name, value in given.items():
        if name in refused and not refused[name](value):
            raise UnsupportedParameter(f"{name} is not supported by this server", param=name)
    unknown = [name for name in given if name not in HARMLESS and name not in refused]
    if strict and unknown:
        raise BadRequest(f"unrecognized request member: {unknown[0][:200]}", param=unknown[0][:200])
    ignored = [name for name in given if name not in refused and (name, given[name]) != ("store", False)]
    # odd names are percent-encoded: a header is ASCII
    header = ", ".join(quote(name, safe="[]") for name in [*ignored, *ignored_stream_options(body)])
    return {"X-Headrace-Ignored": header[:1024]} if header else {}
