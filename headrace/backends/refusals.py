"""Maps a provider's error response to a ServerError: its class, the provider's message and codes that it
keeps, and whether a retry can help. Recognizes the errors of models whose context is too small for a prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

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

TOO_LONG_CODES = frozenset(
    ("context_length_exceeded", "context_window_exceeded", "exceed_context_size_error",
     "model_context_window_exceeded", "prompt_too_long", "tokens_limit_reached")
)  # fmt: skip
TOO_LONG = re.compile(
    "context_length_exceeded|maximum context length|maximum prompt length is|available context size"
    "|prompt is too long|prompt too long|input is too long|context limit|context window"
    "|(exceeds|longer than|greater than) the (available |maximum |model's )?context"
    "|when context the overflows"
    r"|(input length|input tokens|prompt)( \(\d+ tokens\))? exceeds (the )?max(imum)?( allowed)? length"
    "|exceeds the max_model_len|should not exceed max_num_tokens"
    "|input tokens exceeded|tokens in request more than max tokens allowed|too many tokens: "
    r"|inputs`? (tokens \+ `?max_new_tokens`? must be <=|must have less than \d+ tokens)"
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
        r"prompt length (?P<requested>\d+) exceeds the max_model_len (?P<limit>\d+)",
    )
)
PROMPTS = {"/completions": "prompt", "/embeddings": "input"}  # endpoint → the member with the prompt
MAX_PAUSE_S = 2**31 - 1  # of a Retry-After; more is no number of seconds for some clients
MAX_NAME = 100  # characters of a code or a parameter's name
NO_RETRY = {"x-should-retry": "false"}  # OpenAI's and Anthropic's SDKs obey it, whatever the status
# an exhausted account: its status is 429 or 5xx, although waiting does not help
USED_UP = frozenset(
    ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance",
     "exceeded_current_quota_error")
)  # fmt: skip
USED_UP_MESSAGE = re.compile(
    "exceeded your current quota|insufficient (balance|quota|credit)|used all available credits"
    "|(balance|credits?) (is|are) (insufficient|depleted|exhausted|used up)|monthly spending limit|余额不足",
    re.IGNORECASE,
)
# some providers refuse a key or an account with 400, as if the request were wrong, or without a status
OUR_FAULT = re.compile(
    "api key (is )?(not valid|invalid|expired)|(incorrect|invalid) api key|credit balance is too low"
    "|account is in good standing|carry the api secret key",
    re.IGNORECASE,
)
BAD_KEY = frozenset({"invalid_api_key", "invalid_authentication", "authentication_error"})
CLASSES: Mapping[int, type[ServerError]] = {
    401: ProviderKeyRefused,
    402: ProviderKeyRefused,  # the account has no credit left
    403: ProviderKeyRefused,
    407: ProviderKeyRefused,  # by a proxy
    408: ProviderTimedOut,
    429: ProviderLimited,
    498: ProviderUnreachable,  # Groq's: no capacity
    503: ProviderUnreachable,
    504: ProviderTimedOut,
    529: ProviderUnreachable,
}
# messages about a path that does not exist; those about an unknown model contain its name
NO_ENDPOINT = re.compile(
    r"\s*$|(404 )?(page |file |route |url |path |endpoint )?not found\W*$|invalid url|cannot (get|post)"
    r"|there is nothing at|no (such )?(route|endpoint)\b|no handler|resource not found"
    "|(unknown|unexpected|unsupported) (route|endpoint|url|path)",
    re.IGNORECASE,
)
# messages about a member of the request that a model does not support
MEMBERS = {
    "messages.reasoning_content": re.compile(r"\breasoning_content\b"),
    "reasoning_effort": re.compile(r"reasoning|(\b|_)think(ing|\b)|\beffort\b", re.IGNORECASE),
    "verbosity": re.compile(r"\bverbosity\b", re.IGNORECASE),
    **{
        name: re.compile(rf"\b{name}\b", re.IGNORECASE)
        for name in (
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
        )
    },
}
# headers about rate limits
LIMITS = re.compile(
    "retry-after-ms|((x|anthropic)-)?ratelimit[a-z0-9-]*|anthropic-(priority|fast)-[a-z0-9-]+", re.IGNORECASE
)
# statuses after which a retry may succeed, even if a proxy's page says so
TEMPORARY = (408, 409, 425, 429)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error response. `message`: with secrets masked. `pause`: its body's own Retry-After. `is_page`: its
    body is HTML.
    """

    provider: str
    status: int
    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    pause: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_page: bool = False
    path: str = ""  # of the request


def to_error(refusal: Refusal) -> ServerError:
    """The error that the caller gets."""
    error = _error(refusal)
    if _may_keep_code(error, refusal):
        error.code = refusal.code
    if isinstance(error, ProviderRefused):
        names = (name for name, pattern in MEMBERS.items() if pattern.search(refusal.message))
        error.status, error.param = refusal.status, refusal.param or next(names, None)
    error.headers |= _hints(refusal, error)
    is_final = error.headers.get("x-should-retry") == "false"
    if isinstance(error, ProviderLimited | ProviderUnreachable) and not is_final:
        _guess_pause(error)
    return error


def _error(refusal: Refusal) -> ServerError:
    status, provider = refusal.status, refusal.provider
    text = f"{provider}: {refusal.message or f'status {status}'}"
    if is_overflow(status, refusal.message, {refusal.code, refusal.type}):
        return overflow_error(refusal.message, text, refusal.path)
    if 300 <= status < 400:
        return ProviderError(f"{provider} answered with a redirect; base_url must be the final address")
    if status in (404, 405):
        return _not_found(refusal, text)
    if status in (400, 500) and OUR_FAULT.search(refusal.message):
        return ProviderKeyRefused(text)
    return CLASSES.get(status, ProviderRefused if 400 <= status < 500 else ProviderError)(text)


def _not_found(refusal: Refusal, text: str) -> ServerError:
    message, path = refusal.message, refusal.path
    is_model = refusal.code == "model_not_found" or "model" in message.lower()
    is_path = (
        refusal.status == 405 or refusal.is_page or NO_ENDPOINT.match(message) or (path and path in message)
    )
    if is_model or not is_path:
        return ModelNotFound(text, param="model")
    what, why = f" {path}" if path else "", f": {message}" if message else ""
    return EndpointNotFound(f"{refusal.provider} has no endpoint{what} (status {refusal.status}){why}")


def _may_keep_code(error: ServerError, refusal: Refusal) -> bool:
    """Whether the caller gets the provider's code: not one that says the caller's own key is bad, and not for
    errors whose code is the same with all providers.
    """
    if isinstance(error, ContextTooLong | ModelNotFound | EndpointNotFound) or refusal.code is None:
        return False
    return not (isinstance(error, ProviderKeyRefused) and refusal.code in BAD_KEY)


def _hints(refusal: Refusal, error: ServerError) -> dict[str, str]:
    """Headers about whether and when to retry. Those that are not printable ASCII cannot be sent on."""
    pairs = ((name.lower(), value) for name, value in refusal.headers.items())
    headers = {name: text for name, value in pairs if (text := hint(name, value)) is not None}
    hints = {name: value for name, value in headers.items() if LIMITS.fullmatch(name)}
    if headers.get("x-should-retry") in ("true", "false"):
        hints["x-should-retry"] = headers["x-should-retry"]
    pause = headers.get("retry-after") or retry_after(refusal.pause or "") or _of_ms(headers)
    if _is_final(refusal, error, pause):
        hints.pop("retry-after-ms", None)
        return hints | NO_RETRY
    is_temporary = refusal.status in TEMPORARY or refusal.status >= 500
    if pause and (is_temporary or isinstance(error, ProviderLimited | ProviderUnreachable)):
        hints["Retry-After"] = pause
    return hints


def hint(name: str, value: str) -> str | None:
    """The value of a header about limits as it can be sent on; None: it cannot. `name`: in lower case."""
    if not (value.isascii() and value.isprintable()):
        return None
    return retry_after(value) if name == "retry-after" else value


def retry_after(value: str) -> str | None:
    """A Retry-After as the standard defines it, a date or whole seconds, rounded up; None: it is neither.
    Seconds may have their unit ("34s").
    """
    try:
        seconds = float(value.removesuffix("s"))
    except ValueError:
        return value if _is_date(value) else None
    return str(math.ceil(min(seconds, MAX_PAUSE_S))) if seconds >= 0 else None


def _of_ms(headers: Mapping[str, str]) -> str | None:
    milliseconds = headers.get("retry-after-ms", "")
    is_number = milliseconds.isascii() and milliseconds.isdecimal()
    return retry_after(str(float(milliseconds) / 1000)) if is_number else None


def _is_date(value: str) -> bool:
    try:
        return bool(parsedate_to_datetime(value))
    except (ValueError, OverflowError):
        return False


def _is_final(refusal: Refusal, error: ServerError, pause: str | None) -> bool:
    """Whether a retry fails until somebody changes a key, an account or an address. `pause`: after which the
    provider suggests a retry; Google calls its limits a minute a quota.
    """
    status = refusal.status
    if isinstance(error, ProviderKeyRefused) or 300 <= status < 400:
        return True
    if refusal.is_page and status < 500 and status not in TEMPORARY:
        return True
    is_said = pause is None and USED_UP_MESSAGE.search(refusal.message) is not None
    return is_said or bool({refusal.code, refusal.type} & USED_UP)


def unreachable(message: str) -> ProviderUnreachable:
    """The error for a provider to which there is no connection."""
    error = ProviderUnreachable(message)
    _guess_pause(error)
    return error


def _guess_pause(error: ProviderError) -> None:
    """Let the caller try again in a second if the provider has named no time."""
    error.is_pause_guessed = "Retry-After" not in error.headers
    error.headers.setdefault("Retry-After", "1")


def page(provider: str) -> ProviderError:
    """The error for an HTML page that came instead of an answer."""
    return ProviderError(
        f"{provider} answered with an HTML page; is base_url the address of its API?", headers=dict(NO_RETRY)
    )


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
