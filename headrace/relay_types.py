"""What passes between a caller and a provider of the same dialect, and what a backend does for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from headrace.types import Usage
from headrace.verbatim import Verbatim

Dialect = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """A question as the caller wrote it, for a provider of the same dialect. `endpoint` is below the
    provider's address, e.g. /chat/completions; `headers` are those that belong to the dialect.
    """

    dialect: Dialect
    endpoint: str
    body: Verbatim
    model: str
    is_streamed: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


class UsageReader(Protocol):
    """Finds the usage in the bytes of an answer."""

    def saw(self, piece: bytes) -> None:
        """Look at whole events, or at a whole body."""
        ...

    def usage(self) -> Usage | None:
        """What the answer's usage is so far; None: it did not tell."""
        ...


@dataclass(frozen=True, slots=True)
class Relayed:
    """A provider's answer as it wrote it: the whole body, or a stream in pieces that are whole events, the
    first of which is there already. `headers`: those that may be passed on. `usage` reads the answer's
    usage, if it is shown what passes. `ignored`: members of the request that were left out or changed, by
    their paths without indices.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    answer: bytes | AsyncIterator[bytes]
    usage: UsageReader
    ignored: tuple[str, ...] = ()


@runtime_checkable
class Relaying(Protocol):
    """What a backend may do besides: pass on what is written in its dialect already."""

    def relays(self, request: RelayRequest, model: str) -> bool:
        """Whether it may be passed on with nothing changed but its model, or a limit. Cheap."""
        ...

    def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AbstractAsyncContextManager[Relayed]:
        """Ask this model, as the provider calls it. Entering may refuse (ServerError), and does so for an
        answer that is an error; leaving always frees what it held. `until_content`: a stream has begun when
        it says something; until then, somebody else may be asked.
        """
        ...
