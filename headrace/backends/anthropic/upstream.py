"""What Anthropic's errors mean, as a status and inside a stream."""

from __future__ import annotations

from headrace.backends.http import Upstream
from headrace.backends.refusals import Named
from headrace.dialects.anthropic import STATUS_OF_TYPE
from headrace.errors import ServerError


class AnthropicUpstream(Upstream):
    def error_of_type(self, type: str, message: str) -> ServerError:
        """The error for an `error` event, after the status was 200."""
        return self.error(STATUS_OF_TYPE.get(type, 500), message or type, named=Named(type=type))
