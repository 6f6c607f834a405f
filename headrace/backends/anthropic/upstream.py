"""What Anthropic's errors mean, as a status and inside a stream."""

from __future__ import annotations

from headrace.backends.http import Upstream
from headrace.backends.refusals import Named
from headrace.errors import ServerError

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
