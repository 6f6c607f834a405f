"""What Anthropic's errors mean, as a status and inside a stream."""

from __future__ import annotations

import re
from collections.abc import Mapping

from headrace.backends.http import Sent, Upstream
from headrace.errors import ContextTooLong, ProviderError, ServerError

# an error inside a stream has a type where one before it has a status
STATUS_OF_TYPE = {
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

# how it words that the context is too short, which is an invalid_request_error like all others
TOO_LONG = ("prompt is too long", "exceed context limit", "exceeds the context window")


class AnthropicUpstream(Upstream):
    def error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> ServerError:
        error = super().error(status, message, headers)
        if status in (400, 413) and any(words in message.lower() for words in TOO_LONG):
            return ContextTooLong(error.message, param="messages")
        return error

    def error_of_type(self, type: str, message: str) -> ServerError:
        """The error for an `error` event, after the status was 200."""
        return self.error(STATUS_OF_TYPE.get(type, 500), message or type)


class AnthropicReading:
    """What an answer that is passed on is looked at for."""

    last = re.compile(rb"(?:^|[\r\n])event: ?message_stop *[\r\n]")

    def __init__(self, upstream: AnthropicUpstream) -> None:
        self._upstream = upstream

    def error(self, sent: Sent) -> ServerError | None:
        """Raises ProviderError for what is no JSON object."""
        value = self._upstream.loads(sent.data)
        if not isinstance(value, dict):
            raise ProviderError(f"{self._upstream.provider} sent something that is no JSON object")
        if value.get("type", sent.event) != "error":
            return None
        error = value.get("error")
        told = error if isinstance(error, dict) else {}
        return self._upstream.error_of_type(str(told.get("type", "")), str(told.get("message", "")))
