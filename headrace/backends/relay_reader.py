"""The base of the readers of relayed answers, one for each dialect."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from headrace.backends.answer import object_in
from headrace.backends.http import Upstream
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.values import Object
from headrace.errors import ProviderError, ServerError
from headrace.types import Usage


class RelayReader(ABC):
    """Reads the answer to one relayed request, in its dialect. `last` matches the last event of a stream;
    `notable` matches all events that may be errors or that `follow` has to read, and few others; `is_over`:
    the stream is complete.
    """

    last: re.Pattern[bytes]
    notable: re.Pattern[bytes]
    is_over = False

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    @property
    def provider(self) -> str:
        return self.upstream.provider

    def error(self, sent: ServerSentEvent) -> ServerError | None:
        """Return the error that an event reports, if any. Raises ProviderError if it is no JSON object."""
        value = object_in(self.provider, sent)
        return None if value is None else self.error_in(sent, value)

    def has_content(self, sent: ServerSentEvent) -> bool:
        """Whether the event carries content, after which no other target may answer instead."""
        try:
            return self.content_in(sent, object_in(self.provider, sent) or {})
        except ProviderError:
            return True

    def is_end(self, sent: ServerSentEvent) -> bool:
        """Whether the event ends a stream, so that no answer can begin with it."""
        return False

    @abstractmethod
    def follow(self, sents: Sequence[ServerSentEvent]) -> None:
        """Set `is_over` when these events end the answer. Raises ProviderError if it ends with a failure."""

    @abstractmethod
    def error_in(self, sent: ServerSentEvent, value: Object) -> ServerError | None: ...

    @abstractmethod
    def content_in(self, sent: ServerSentEvent, value: Object) -> bool: ...

    @abstractmethod
    def usage(self, members: Object) -> Usage | None:
        """Read the members of a `usage` object; None: they are incomplete."""

    @abstractmethod
    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        """Convert a stream into one JSON body. Raises ServerError."""

    @abstractmethod
    def unfolded(self, whole: Object) -> bytes | None:
        """Convert a JSON body into a stream; None: the body is no answer."""
