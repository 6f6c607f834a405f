"""What the store gives and takes: plain values.

Items form trees, as commits do: each is addressed by a hash over its owner, its parent's hash and its body,
so that conversations that begin alike share rows, and a history that is sent again is there already. A
*head* is the hash of a last item: it names the whole path from the first item to it. None: the empty path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredItem:
    """`body`: the item as clients see it (it holds `id`, `type` and, where there is one, `status`)."""

    id: str
    hash: str
    body: Json


@dataclass(frozen=True, slots=True)
class Chain:
    """Items to put after `parent`, in order. Their bodies have ids already."""

    parent: str | None
    items: Sequence[Json]


@dataclass(frozen=True, slots=True)
class StoredConversation:
    id: str
    created_at: int  # seconds since 1970
    metadata: Mapping[str, str]
    head: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """A conversation that nobody else may change until it is let go (or its process has died)."""

    conversation: StoredConversation
    token: str


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`body`: the response object as clients see it, without `output`. The path to `input_head` is what it
    was asked (with what was carried over); from there to `output_head` is what it answered.
    """

    id: str
    created_at: int
    status: str  # queued, in_progress, completed, incomplete, failed, cancelled
    body: Json
    is_background: bool = False
    is_streamed: bool = False
    input_head: str | None = None
    output_head: str | None = None


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A chat completion. `body`: the answer as given; the path to `head`: the messages it was asked."""

    id: str
    created_at: int
    model: str
    body: Json
    metadata: Mapping[str, str] = field(default_factory=dict)
    head: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    data: Sequence[T]
    has_more: bool
