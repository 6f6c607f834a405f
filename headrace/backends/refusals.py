"""Maps a provider's error response to a ServerError: its class, the provider's message and codes that it
keeps, and whether a retry can help.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import (
    ContextTooLong,
    EndpointNotFound,
    ModelNotFound,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
)

MAX_NAME = 100  # characters of a code or a parameter's name
NO_RETRY = {"x-should-retry": "false"}  # OpenAI's and Anthropic's SDKs obey it, whatever the status
# an exhausted account: its status is 429, although waiting does not help
USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"})
USED_UP_WORDS = re.compile("exceeded your current quota|insufficient (balance|quota|credit)", re.IGNORECASE)
BAD_KEY = frozenset({"invalid_api_key", "invalid_authentication", "authentication_error"})

# codes and types, then messages, of providers whose model's context is too small for a prompt
TOO_LONG_CODES = frozenset(
    {
        "context_length_exceeded",
        "context_window_exceeded",
        "exceed_context_size_error",
        "model_context_window_exceeded",
        "prompt_too_long",
    }
)
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
# messages about a path that does not exist; those about an unknown model contain its name
NO_ENDPOINT = re.compile(
    r"\s*$|(404 )?(page |file |route |url |path |endpoint )?not found\W*$|invalid url|cannot (get|post)"
    "|there is nothing at|no (such )?(route|endpoint)|no handler|resource not found"
    "|(unknown|unexpected|unsupported) (route|endpoint|url|path)",
    re.IGNORECASE,
)
# messages about a member that a model does not support
EFFORT = re.compile(
    "reasoning[_. ]?effort|(does ?n[o']t|do not|not) support(ed)? (the )?.{0,20}(thinking|reasoning)"
    "|(thinking|reasoning)( mode)? (is|are) not (supported|available|enabled)",
    re.IGNORECASE,
)
THOUGHTS = re.compile(r"\breasoning_content\b")
VERBOSITY = re.compile(r"\bverbosity\b", re.IGNORECASE)
PROMPTS = {"/completions": "prompt", "/embeddings": "input"}  # endpoint → the member with the prompt
# headers about rate limits
LIMITS = re.compile("retry-after-ms|(x|anthropic)-ratelimit-[a-z0-9-]+")
PAGE = re.compile(rb"\s*(\xef\xbb\xbf)?\s*<(!doctype|html|head|body)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error response. `words`: its message, with secrets masked. `is_page`: its body is HTML."""

    provider: str
    status: int
    words: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_page: bool = False
    path: str = ""  # of the request


def to_error(refusal: Refusal) -> ServerError:
    """The error that the caller gets."""
    error = _error(refusal)
    if error.code in (None, type(error).code) and _may_keep_code(error, refusal):
        error.code = refusal.code
    if isinstance(error, ProviderRefused):
        error.param = refusal.param or _param_in(refusal.words)
    error.headers |= _hints(refusal, error)
    return error


def _error(refusal: Refusal) -> ServerError:
    status, provider = refusal.status, refusal.provider
    message = f"{provider}: {refusal.words or f'status {status}'}"
    if is_too_long(refusal):
        return _too_long(refusal, message)
    if 300 <= status < 400:
        return ProviderError(f"{provider} answered with a redirect; base_url must be the final address")
    if status in (401, 402, 403):  # 402: the account has no credit left
        return ProviderKeyRefused(message)
    if status in (404, 405):
        return _not_found(refusal, message)
    if status == 429:
        return ProviderLimited(message)
    if status in (408, 504):
        return ProviderTimedOut(message)
    if status in (503, 529):
        return ProviderUnreachable(message)
    if not 400 <= status < 500:
        return ProviderError(message)
    error = ProviderRefused(message)
    error.status = status
    return error


def is_too_long(refusal: Refusal) -> bool:
    """Whether the prompt exceeds the model's context. The message alone counts only with some statuses."""
    if {refusal.code, refusal.type} & TOO_LONG_CODES:
        return True
    return refusal.status in (400, 413, 422, 500) and TOO_LONG.search(refusal.words) is not None


def _too_long(refusal: Refusal, message: str) -> ContextTooLong:
    """The error begins with OpenAI's own sentence, which clients parse, if the message has its numbers."""
    param = PROMPTS.get(refusal.path, "messages")
    numbers = next((hit for pattern in NUMBERS if (hit := pattern.search(refusal.words))), None)
    if numbers is None:
        return ContextTooLong(message, param=param)
    limit, requested = int(numbers["limit"]), int(numbers["requested"])
    if "maximum context length is" not in refusal.words:
        message = (
            f"This model's maximum context length is {limit} tokens. However, you requested {requested} "
            f"tokens. ({message})"
        )
    return ContextTooLong(message, param=param, limit=limit, requested=requested)


def _not_found(refusal: Refusal, message: str) -> ServerError:
    is_model = refusal.code == "model_not_found" or "model" in refusal.words.lower()
    is_path = refusal.status == 405 or refusal.is_page or NO_ENDPOINT.match(refusal.words)
    if is_model or not (is_path or _names_path(refusal)):
        return ModelNotFound(message, param="model")
    what = f" {refusal.path}" if refusal.path else ""
    words = f": {refusal.words}" if refusal.words else ""
    return EndpointNotFound(f"{refusal.provider} has no endpoint{what} (status {refusal.status}){words}")


def _names_path(refusal: Refusal) -> bool:
    return bool(refusal.path) and refusal.path in refusal.words


def _may_keep_code(error: ServerError, refusal: Refusal) -> bool:
    """Whether the caller gets the provider's code: not one that says the caller's own key is bad, and not for
    errors that have the same code with all providers.
    """
    if isinstance(error, ContextTooLong | ModelNotFound | EndpointNotFound) or refusal.code is None:
        return False
    return not (isinstance(error, ProviderKeyRefused) and refusal.code in BAD_KEY)


def _hints(refusal: Refusal, error: ServerError) -> dict[str, str]:
    """Headers about whether and when to retry."""
    headers = {name.lower(): value for name, value in refusal.headers.items()}
    hints = {}
    if isinstance(error, ProviderLimited | ProviderUnreachable):
        after = headers.get("retry-after", "1")
        hints["Retry-After"] = after if is_plain(after) else "1"
    hints |= {name: value for name, value in headers.items() if LIMITS.fullmatch(name) and is_plain(value)}
    if headers.get("x-should-retry") in ("true", "false"):
        hints["x-should-retry"] = headers["x-should-retry"]
    if _is_final(refusal):
        hints.pop("Retry-After", None)
        hints.pop("retry-after-ms", None)
        hints |= NO_RETRY
    return hints


def _is_final(refusal: Refusal) -> bool:
    """Whether a retry fails until somebody changes a key, an account or an address."""
    if refusal.status in (401, 402, 403) or 300 <= refusal.status < 400:
        return True
    if refusal.is_page and refusal.status < 500:
        return True
    is_used_up = {refusal.code, refusal.type} & USED_UP or USED_UP_WORDS.search(refusal.words)
    return refusal.status == 429 and bool(is_used_up)


def _param_in(words: str) -> str | None:
    """The member of the request that a message is about, if it can be recognized."""
    if THOUGHTS.search(words):
        return "messages.reasoning_content"
    if EFFORT.search(words):
        return "reasoning_effort"
    return "verbosity" if VERBOSITY.search(words) else None


@dataclass(frozen=True, slots=True)
class Named:
    """The names in an error's body; None: absent."""

    code: str | None = None
    type: str | None = None
    param: str | None = None


def named_in(raw: str) -> Named:
    """Read the code, the type and the parameter from an error's body, in any dialect."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return Named()
    levels = list(_levels(found))
    return Named(
        next((code for level in reversed(levels) if (code := _code(level))), None),
        next((name for level in reversed(levels) if (name := _name(level.get("type")))), None),
        next((name for level in reversed(levels) if (name := _param(level))), None),
    )


def _levels(found: Any) -> Iterator[dict[str, Any]]:
    """The nested objects of an error, outermost first: one may be inside `error`, `errors` or a list."""
    for _ in range(8):
        if isinstance(found, list):
            found = found[0] if found else None
        if not isinstance(found, dict):
            return
        yield found
        found = next((found[name] for name in ("error", "errors", "detail") if name in found), None)


def _code(level: dict[str, Any]) -> str | None:
    """A code that is a name and not the number of a status."""
    names = (_name(level.get("code")), _name(level.get("status")))
    return next((name for name in names if name and not name.isdecimal()), None)


def _param(level: dict[str, Any]) -> str | None:
    """The parameter's name, or FastAPI's location of it without its first step ("body" or "query")."""
    place = level.get("loc")
    if isinstance(place, list):
        steps = [str(step) for step in place[:20] if isinstance(step, str | int)]
        return _name(".".join(steps[1:] if steps[:1] in (["body"], ["query"]) else steps))
    return _name(level.get("param"))


def _name(value: object) -> str | None:
    """A printable name; secrets in it are masked, and it is cut to MAX_NAME, elsewhere."""
    return value if isinstance(value, str) and value and value.isprintable() else None


def is_page(raw: bytes) -> bool:
    """Whether a body is an HTML page, for example of a proxy or a login."""
    return PAGE.match(raw) is not None


def is_plain(value: str) -> bool:
    """Whether a header's value is printable ASCII; servers cannot send other values."""
    return value.isascii() and value.isprintable()


def page(provider: str) -> ProviderError:
    """The error for an HTML page that came instead of an answer."""
    return ProviderError(
        f"{provider} answered with an HTML page; is base_url the address of its API?", headers=dict(NO_RETRY)
    )
