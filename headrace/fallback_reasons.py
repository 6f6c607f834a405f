"""Which failures of a target leave the request to another one."""

from __future__ import annotations

from headrace.config import FallbackReason
from headrace.errors import (
    ContextTooLong,
    Overloaded,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
    TimedOut,
)


def reasons(error: ServerError) -> set[FallbackReason]:
    """The fallback reasons that an error matches; empty if another target would fail in the same way."""
    if isinstance(error, ProviderError) and error.has_started:
        return set()
    if isinstance(error, ContextTooLong):
        return {"context"}
    if isinstance(error, Overloaded):
        return {"overloaded"}
    if isinstance(error, ProviderLimited):
        return {"429"}
    if isinstance(error, TimedOut | ProviderKeyRefused) or error.status < 500:
        return set()
    if isinstance(error, ProviderUnreachable):
        return {"connection", "5xx"}
    return {"408", "5xx"} if isinstance(error, ProviderTimedOut) else {"5xx"}
