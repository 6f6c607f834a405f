"""The neutral values of reranking, beside those in types.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


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
    instruction = request.instruction or INSTRUCTION
    return SYSTEM, f"<Instruct>: {instruction}\n<Query>: {request.query}\n<Document>: {document}"


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
