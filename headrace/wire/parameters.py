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
from headrace.wire.generation import GenerationBody
from headrace.wire.validation import unknown_members

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
        "messages.annotations",
        "messages.refusal",
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
        "stream_options.include_obfuscation",
        "user",
    }
)
MAX_NAMED = 20  # ignored members in the header, at most

# These change the output and this server cannot honour them yet; the value beside each is the one that
# changes nothing.
SHARED_REFUSED: dict[str, Neutral] = {
    "allowed_token_ids": NOTHING,
    "bad_words": EMPTY,
    "echo": equals(False),
    "frequency_penalty": equals(0),
    "function_call": equals("none", "auto"),
    "functions": EMPTY,
    "guided_choice": NOTHING,
    "guided_grammar": NOTHING,
    "guided_json": NOTHING,
    "guided_regex": NOTHING,
    "include_stop_str_in_output": equals(False),
    "logit_bias": EMPTY,
    "presence_penalty": equals(0),
    "repetition_penalty": equals(1),
    "response_format": equals({"type": "text"}),
    "skip_special_tokens": equals(True),
    "stop_token_ids": EMPTY,
    "structured_outputs": NOTHING,
    "tool_choice": equals("none", "auto"),
    "tools": EMPTY,
    "truncate_prompt_tokens": NOTHING,
    "use_beam_search": equals(False),
}
CHAT_REFUSED: dict[str, Neutral] = {
    **SHARED_REFUSED,
    "add_generation_prompt": equals(True),
    "audio": NOTHING,
    "chat_template": NOTHING,
    "chat_template_kwargs": EMPTY,
    "continue_final_message": equals(False),
    "logprobs": equals(False),
    "modalities": equals(["text"]),
    "reasoning_effort": equals("none"),
    "top_logprobs": equals(0),
    "verbosity": equals("medium"),
    "web_search_options": NOTHING,
}
COMPLETION_REFUSED: dict[str, Neutral] = {
    **SHARED_REFUSED,
    "best_of": equals(1),
    "logprobs": NOTHING,
    "max_completion_tokens": NOTHING,
    "suffix": equals(""),
}


def sort_out(body: GenerationBody, refused: Mapping[str, Neutral], *, strict: bool = False) -> dict[str, str]:
    """The header X-Headrace-Ignored, if there is anything to name.

    Raises UnsupportedParameter for a member that would change the output; with `strict`, BadRequest for
    unknown ones.
    """
    for name, value in (body.model_extra or {}).items():
        if value is not None and name in refused and not refused[name](value):
            raise UnsupportedParameter(f"{name} is not supported by this server", param=name)
    given = {path: value for path, value in unknown_members(body) if path not in refused}
    unknown = [path for path in given if _without_indices(path) not in HARMLESS]
    if strict and unknown:
        raise BadRequest(f"unrecognized request member: {unknown[0][:200]}", param=unknown[0][:200])
    ignored = [path for path, value in given.items() if (path, value) != ("store", False)]
    # odd names are percent-encoded: a header is ASCII
    header = ", ".join(quote(path, safe="[]") for path in ignored[:MAX_NAMED])
    return {"X-Headrace-Ignored": header[:1024]} if header else {}


def _without_indices(path: str) -> str:
    return ".".join(step for step in path.split(".") if not step.isdigit())
