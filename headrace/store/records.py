"""The values that the store accepts and returns.

Items form trees, as commits do: each is addressed by a hash over its owner, its parent's hash and its body.
Conversations that begin with the same items share their rows, and a history that a client sends again is
found rather than stored twice. A *head* is the hash of a last item: it names the whole path from the first
item to that one. None is the empty path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from headrace.callers import UNLIMITED, Limits

Json = Mapping[str, Any]
Order = Literal["asc", "desc"]  # by creation: oldest first, newest first
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredItem:
    """`body`: the item as clients see it (with `id`, `type` and, where it has one, `status`)."""

    id: str
    hash: str
    body: Json


@dataclass(frozen=True, slots=True)
class Chain:
    """Items to append after `parent`, in order."""

    parent: str | None
    items: Sequence[Json]


@dataclass(frozen=True, slots=True)
class StoredConversation:
    id: str
    created_at: int  # seconds since 1970
    metadata: Mapping[str, str]
    head: str | None


@dataclass(frozen=True, slots=True)
class ConversationLock:
    """The exclusive right to change a conversation, until it is released or its process has died.

    `conversation`: as it was when the lock was taken. `token`: identifies this lock among its successors.
    """

    conversation: StoredConversation
    token: str


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`body`: the response object as clients see it, without `output`. The path to `input_head` is the input,
    the history included; the items from there to `output_head` are the output.
    """

    id: str
    created_at: int  # seconds since 1970
    status: str  # queued, in_progress, completed, incomplete, failed, cancelled
    body: Json
    is_background: bool = False
    is_streamed: bool = False
    input_head: str | None = None
    output_head: str | None = None


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A chat completion. `body`: the answer as clients see it; the path to `head`: the request's messages."""

    id: str
    created_at: int  # seconds since 1970
    model: str
    body: Json
    metadata: Mapping[str, str] = field(default_factory=dict)
    head: str | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key, without its secret. `hint`: the secret's beginning and end, as people recognize it;
    `expires_at`, `revoked_at`: seconds since 1970; None: never. `models` and `may_hurry`: see Principal.
    """

    id: str
    name: str
    owner: str
    hint: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    models: tuple[str, ...] = ()
    limits: Limits = UNLIMITED
    may_hurry: bool = False

    def is_valid(self, now: float) -> bool:
        """Whether the key may be used at this time, in seconds since 1970."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one key has used of one model on one day. `day`: days since 1970-01-01, UTC; `cost`: in billionths
    of the currency of the configured prices; `name`: that of a stored key, where the row was read.
    """

    key: str
    provider: str
    model: str
    day: int
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: int = 0
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A steering profile, which all owners share. `model`: the model that it is for; None: any."""

    name: str
    body: Json
    model: str | None = None
    description: str = ""
    created_at: int = 0  # seconds since 1970
    changed_at: int = 0


@dataclass(frozen=True, slots=True)
class StoredAttachment:
    """A file that requests may steer with, loaded again when the server starts."""

    id: str
    model: str
    kind: Literal["sae", "vector"]
    path: str  # below the configured root
    layer: int | None = None  # of an SAE, if not what its files say
    is_attached: bool = False
    layers: tuple[int, ...] = ()  # where an SAE is attached; none: at its own


@dataclass(frozen=True, slots=True)
class StoredPreset:
    """A model of another name that is made of one that is served, which all owners share. `body`: as the body
    of POST /api/create describes it, with the name of the served model.
    """

    name: str
    body: Json
    created_at: int = 0  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    data: Sequence[T]
    has_more: bool
