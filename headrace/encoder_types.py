"""The neutral values of models that embed texts or score documents, and of reranking."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a gateway needs numpy for nothing
    import numpy as np
    from numpy.typing import NDArray

# How the last hidden states become a vector: as in a request (types.EmbedRequest), or as only models do it.
Pooling = Literal["mean", "last", "cls", "max", "mean_sqrt_len", "weighted_mean"]
Activation = Literal["identity", "sigmoid", "tanh", "relu", "gelu", "silu"]
JUDGE_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
JUDGE_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer that a vector goes through, and what follows it."""

    folder: str  # in the model's own, with `model.safetensors`
    inputs: int
    outputs: int
    activation: Activation


@dataclass(frozen=True, slots=True)
class Embedding:
    """How an embedding model makes a vector of a text: by pooling the last hidden states, [tokens, width]. A
    text has at most `max_tokens`, marks included.
    """

    width: int  # of the vectors
    max_tokens: int
    pooling: Pooling
    is_scaled: bool = True  # to length 1, unless a request says otherwise
    prompts: dict[str, str] = field(default_factory=dict, hash=False)  # by name: what precedes a text
    default_prompt: str = ""  # the name of that which precedes all texts; "": none does
    lowercases: bool = False
    layers: tuple[Layer, ...] = ()
    # Set: a cross-encoder, which reads a query and a document together. Its number, put through this
    # function, is the document's score.
    score: Activation | None = None

    def limited(self, max_model_len: int) -> Embedding:
        """The same embedding with texts limited to `max_model_len` tokens; 0: to what the model takes."""
        return replace(self, max_tokens=min(max_model_len or self.max_tokens, self.max_tokens))


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """A text as token ids, the model's marks included. `types`: of each token, the segment that it belongs
    to: of a query with a document, 1 is mostly the document.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """Documents to be ordered by how well they answer a query. `instruction`: what makes a document relevant,
    for models that generate; None: that it answers a web search.
    """

    model: str
    query: str
    documents: tuple[str, ...]
    instruction: str | None = None
    truncate_prompt_tokens: int | None = None  # of each document
    timeout_s: float | None = None
    user: str | None = None  # as in GenerateRequest
    owner: str | None = None  # as in GenerateRequest
    flow: str = ""  # as in GenerateRequest


def question(request: RerankRequest, document: str) -> tuple[str, str]:
    """The prompt for a generative model to judge a document: the system message and the user's. It is
    worded as Qwen3-Reranker's authors do (Zhang et al. 2025, "Qwen3 Embedding"), which other models
    understand, too. The query precedes the document, so that the documents of a request share its tokens in
    the prefix cache.
    """
    instruction = request.instruction or JUDGE_INSTRUCTION
    return JUDGE_SYSTEM, f"<Instruct>: {instruction}\n<Query>: {request.query}\n<Document>: {document}"


# How a model scores: a cross-encoder's own output; the probability that a generative model says yes; the
# cosine of embeddings; or as a provider does.
RerankMethod = Literal["cross-encoder", "judge", "embeddings", "provider"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The documents' scores in their order, the higher the better. Scores of different methods, or of
    different models, cannot be compared. `prompt_tokens` None: the provider has not said.
    """

    scores: tuple[float, ...]
    method: RerankMethod
    prompt_tokens: int | None
