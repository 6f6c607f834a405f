"""Recognizes the errors of providers whose model's context is too small for a prompt."""

from __future__ import annotations

import re
from collections.abc import Set

from headrace.errors import ContextTooLong

TOO_LONG_CODES = frozenset(
    ("context_length_exceeded", "context_window_exceeded", "exceed_context_size_error",
     "model_context_window_exceeded", "prompt_too_long")
)  # fmt: skip
TOO_LONG = re.compile(
    "context_length_exceeded|maximum context length|maximum prompt length is|available context size"
    "|prompt is too long|prompt too long|input is too long|context limit|context window"
    "|(exceeds|longer than|greater than) the (available |maximum |model's )?context"
    r"|input token count.{0,40}exceeds|input tokens exceed|token count of \d+ exceeds the limit"
    "|exceeded model token limit|longer than the maximum model length"
    "|reduce the length of the (messages|prompt|input)|too many input tokens|range of input length should be"
    "|total number of tokens in the prompt cannot exceed|input too long for",
    re.IGNORECASE,
)
# the numbers in such messages: the size of the request and the limit, in tokens
NUMBERS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"maximum context length is (?P<limit>\d+) tokens.{0,40}?(requested|resulted in) (about )?"
        r"(?P<requested>\d+)",
        r"maximum prompt length is (?P<limit>\d+) but the request contains (?P<requested>\d+)",
        r"(?P<requested>\d+) tokens > (?P<limit>\d+) maximum",
        r"\((?P<requested>\d+)( tokens)?\).{0,60}?(context|maximum)[^()]{0,60}\((?P<limit>\d+)( tokens)?\)",
        r"token count of (?P<requested>\d+) exceeds the limit of (?P<limit>\d+)",
    )
)
PROMPTS = {"/completions": "prompt", "/embeddings": "input"}  # endpoint → the member with the prompt


def is_overflow(status: int, message: str, names: Set[str | None]) -> bool:
    """Whether an error says so. `names`: its code and type; its message counts only with some statuses."""
    return bool(names & TOO_LONG_CODES) or (
        status in (400, 413, 422, 500) and TOO_LONG.search(message) is not None
    )


def overflow_error(message: str, text: str, path: str) -> ContextTooLong:
    """The error for the caller, with `text`. It begins with OpenAI's own sentence, which clients parse, if
    the provider's `message` has the numbers for it.
    """
    param = PROMPTS.get(path, "messages")
    numbers = next((hit for pattern in NUMBERS if (hit := pattern.search(message))), None)
    if numbers is None:
        return ContextTooLong(text, param=param)
    limit, requested = int(numbers["limit"]), int(numbers["requested"])
    if "maximum context length is" not in message:
        text = (
            f"This model's maximum context length is {limit} tokens. However, you requested {requested} "
            f"tokens. ({text})"
        )
    return ContextTooLong(text, param=param, limit=limit, requested=requested)
