"""Maps Anthropic's error events, which have a type but no status, to ServerError."""

from __future__ import annotations

from headrace.backends.http import Upstream
from headrace.backends.refusals import Named
from headrace.dialects.anthropic import STATUS_OF_TYPE
from headrace.errors import ServerError


class AnthropicUpstream(Upstream):
    def error_of_type(self, type: str, message: str) -> ServerError:
        """The error for an `error` event inside a stream."""
        return self.error(STATUS_OF_TYPE.get(type, 500), message or type, named=Named(type=type))
