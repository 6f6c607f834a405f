"""The neutral values of reranking, beside those in types.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
