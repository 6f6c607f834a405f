"""The interfaces of backends, in the neutral values of types.py, what they know before the first event of an
answer, and what they report of their work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, runtime_checkable

from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import BadRequest
from headrace.features import NONE, Feature
from headrace.types import (
    Capability,
    Embeddings,
    EmbedRequest,
    Event,
    GenerateRequest,
    ModelCard,
    ModelInfo,
    TokenizeRequest,
    TokenizerInfo,
)

if TYPE_CHECKING:  # it needs numpy, which a gateway does not
    from headrace.steering.library import ModelLibrary

T = TypeVar("T")


# feature → what a program that chooses a model calls it
CAPABILITIES: dict[Feature, Capability] = {
    Feature.TEMPERATURE: "completion",
    Feature.TOOLS: "tools",
    Feature.EMBEDDINGS: "embedding",
}


class Backend(ABC):
    """A source of answers. It is started once and closed once; `generate` may be entered concurrently.

    `name`: the provider's, as in `/{provider}/v1` and `provider:model`. `features`: those that it supports;
    `by_us`: those of them that Headrace implements itself, so that no provider receives them. `unsent`:
    features that its provider has, but that this backend does not write in the provider's dialect. They are
    lost rather than meaningless, so a strict request that needs one is refused.
    """

    features: frozenset[Feature] = NONE
    by_us: frozenset[Feature] = NONE
    unsent: frozenset[Feature] = NONE

    def __init__(self, name: str) -> None:
        self.name = name
        self._models: list[ModelInfo] = []

    @property
    def is_alive(self) -> bool:
        """Whether this backend can still answer. Cheap, for liveness probes. A provider that is down does not
        make this server unhealthy.
        """
        return True

    @property
    def has_ended(self) -> bool:
        """Whether the backend has failed for good, so that only another backend can answer. Cheap to call."""
        return False

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None: ...

    def features_of(self, model: str) -> Set[Feature]:
        """The features that it has for a model. The gateway refuses or drops what needs any other."""
        return self.features

    def models(self) -> list[ModelInfo]:
        """The models known so far. Cheap."""
        return self._models

    def find(self, id: str) -> ModelInfo | None:
        """The model with this id, or None. A remote provider may serve models that it does not list."""
        for info in self._models:
            if info.id == id:
                return info
        return None

    def card(self, model: str) -> ModelCard:
        """Facts about a model that it has. Cheap."""
        has = self.features_of(model)
        return ModelCard(frozenset(name for feature, name in CAPABILITIES.items() if feature in has))

    def library(self, model: str) -> ModelLibrary | None:
        """What the model may be steered with; None: it cannot be steered here. Cheap."""
        return None

    @abstractmethod
    def generate(self, request: GenerateRequest) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Start a generation. Entering may raise ServerError; leaving releases all resources."""

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Embed texts. Raises ServerError; BadRequest if this backend cannot embed."""
        raise BadRequest(f"{self.name} has no embeddings", param="model")

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Score documents by their relevance to a query. Raises ServerError; BadRequest if this backend
        cannot rerank.
        """
        raise BadRequest(f"{self.name} has no reranking", param="model")

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Return the token ids of a prompt. Raises BadRequest if this backend cannot tokenize; so do the
        three methods below.
        """
        raise self._no_tokenizer()

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        raise self._no_tokenizer()

    async def token_texts(self, model: str, tokens: list[int]) -> list[str]:
        """The text of each token by itself."""
        texts = {token: await self.detokenize(model, [token]) for token in dict.fromkeys(tokens)}
        return [texts[token] for token in tokens]

    async def tokenizer_info(self, model: str) -> TokenizerInfo:
        raise self._no_tokenizer()

    def _no_tokenizer(self) -> BadRequest:
        return BadRequest(
            f"the tokenizer of {self.name} is not known here: its tokens cannot be counted or read",
            param="model",
        )


@dataclass(slots=True)
class Distribution:
    """The histogram of one set of labels. `counts`: of the values up to each bound, and above all of them."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class EngineStats:
    """`model`: the id of the model. `num_running`, `num_waiting`: sequences; `kv_usage`: the share of the KV
    cache that they hold, 0 to 1; None: not known. `stalled_s`: seconds since the last step, while there is
    work. `counts`: since the start, by the names of `engine.work.Counters`; `step_tokens`: of each step, the
    tokens that it computed; `token_gaps`: the seconds between two outputs of a sequence; `cache`: what the KV
    cache is, by the names of vLLM's settings.
    """

    model: str
    num_running: int
    num_waiting: int
    kv_usage: float | None = None
    stalled_s: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    step_tokens: Distribution | None = None
    token_gaps: Distribution | None = None
    cache: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Measured(Protocol):
    """A backend that computes on this machine."""

    def stats(self) -> EngineStats | None:
        """The engine's state now; None before it has started. Cheap."""
        ...


@runtime_checkable
class Composed(Protocol):
    """A backend that consists of others, each with a model of its own."""

    def parts(self) -> Sequence[object]:
        """The backends that are loaded now. Safe to call in any thread."""
        ...


ReplicaState = Literal["ready", "starting", "unreachable", "failing", "draining"]


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """One of a provider's replicas. `state`: failing: its breaker is open; draining: an administrator keeps
    new requests from it. `num_active`: requests of ours now; `num_requests`, `num_failures`: since the start.
    `num_waiting` and `kv_usage`: as its own metrics say; None: not known. `trouble`: why it is not reachable.
    `was_ready`: False for a process of ours that has never been.
    """

    name: str
    state: ReplicaState
    num_active: int
    num_requests: int
    num_failures: int
    num_waiting: int | None = None
    kv_usage: float | None = None
    trouble: str = ""
    was_ready: bool = True


@runtime_checkable
class Replicated(Protocol):
    """A backend that consists of several servers with the same models."""

    @property
    def name(self) -> str: ...

    def replicas(self) -> Sequence[ReplicaStats]:
        """The replicas' states now. Safe to call in any thread."""
        ...

    def drain(self, name: str, *, is_drained: bool) -> bool:
        """Send a replica no new requests, or send them again. Returns False if there is no such replica."""
        ...


class WithIgnored(AsyncIterator[T], Generic[T]):
    """Events with `ignored`: the request members that were left out or changed, as chat completions calls
    them, without indices. They are reported in X-Headrace-Ignored. `fingerprint`: how the first choice is
    steered, for X-Steering-Fingerprint.
    """

    def __init__(
        self, events: AsyncIterator[T], ignored: tuple[str, ...], fingerprint: str | None = None
    ) -> None:
        self._events, self.ignored, self.fingerprint = events, ignored, fingerprint

    async def __anext__(self) -> T:
        return await anext(self._events)


def with_ignored(
    events: AsyncIterator[T], names: list[str], fingerprint: str | None = None
) -> AsyncIterator[T]:
    """Attach the names and the fingerprint to the events, unless there are none."""
    if not names and fingerprint is None:
        return events
    return WithIgnored(events, tuple(dict.fromkeys(names)), fingerprint)
