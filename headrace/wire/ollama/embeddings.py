"""The JSON of POST /api/embed and of its older form /api/embeddings."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from headrace.types import Embeddings, EmbedRequest
from headrace.wire.generation import INT64, dump
from headrace.wire.limits import MAX_INPUTS, at_most
from headrace.wire.ollama.answer import NANOSECONDS
from headrace.wire.ollama.request import ModelBody


class EmbedBody(ModelBody):
    """The body of POST /api/embed. Without a text it only loads the model."""

    input: str | Annotated[list[str], at_most(MAX_INPUTS)]
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1, lt=INT64)

    @property
    def texts(self) -> tuple[str, ...]:
        texts = (self.input,) if isinstance(self.input, str) else tuple(self.input)
        return texts if any(texts) else ()


class OllamaEmbeddingsBody(ModelBody):
    """The body of POST /api/embeddings, for one text."""

    prompt: str | None = ""


class EmbedAnswer(TypedDict):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(TypedDict):
    embedding: list[float]


def embed_request(body: EmbedBody) -> EmbedRequest:
    return EmbedRequest(
        body.model,
        tuple(body.texts),
        body.dimensions,
        normalize=True,
        truncate_prompt_tokens=-1 if body.truncate else None,
    )


def embeddings_request(body: OllamaEmbeddingsBody) -> EmbedRequest:
    return EmbedRequest(body.model, (body.prompt or "",), normalize=True)


def embed_answer(model: str, embeddings: Embeddings | None, began: float) -> bytes:
    """The answer as JSON text, written vector by vector so that other threads run in between. None: there was
    no text. `began`: when the request came, on the clock `perf_counter`.
    """
    vectors = () if embeddings is None else embeddings.vectors
    rows = ",".join(dump({"v": vector.tolist()})[5:-1] for vector in vectors)
    rest = dump(
        {
            "total_duration": int((time.perf_counter() - began) * NANOSECONDS),
            "prompt_eval_count": 0 if embeddings is None else embeddings.prompt_tokens,
        }
    )
    name = dump({"model": model})[:-1]
    return f'{name},"embeddings":[{rows}],{rest[1:]}'.encode()


def embeddings_answer(embeddings: Embeddings | None) -> EmbeddingsAnswer:
    return {"embedding": [] if embeddings is None else embeddings.vectors[0].tolist()}
