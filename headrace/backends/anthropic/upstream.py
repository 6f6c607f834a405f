"""What Anthropic's errors mean, as a status and inside a stream."""

from __future__ import annotations

import re

from headrace.backends.http import Sent, Upstream
from headrace.backends.refusals import Named
from headrace.errors import ProviderError, ServerError

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


class AnthropicUpstream(Upstream):
    def error_of_type(self, type: str, message: str) -> ServerError:
        """The error for an `error` event, after the status was 200."""
        return self.error(STATUS_OF_TYPE.get(type, 500), message or type, named=Named(type=type))


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
