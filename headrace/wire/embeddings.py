"""The JSON of /v1/embeddings."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from headrace.types import Embeddings, EmbedRequest
from headrace.wire.generation import INT64, dump
from headrace.wire.parameters import RequestBody
from headrace.wire.prompts import Inputs, texts

if TYPE_CHECKING:  # without a local model, numpy is not needed
    import numpy as np
    from numpy.typing import NDArray

Encoding = Literal["float", "base64"]


class EmbeddingsBody(RequestBody):
    """The body of POST /v1/embeddings."""

    model: str
    input: Inputs
    encoding_format: Encoding | None = "float"
    dimensions: int | None = Field(None, ge=1, lt=INT64)
    pooling: Literal["mean", "last", "cls"] | None = None
    normalize: bool | None = Field(None, description="Extension. Scale each vector to length 1.")
    truncate_prompt_tokens: int | None = Field(None, ge=-1, lt=INT64)
    prompt_name: str | None = Field(
        None, description="Extension. Which of the model's own prompts precedes each text."
    )
    user: str | None = None
    timeout: float | None = Field(None, gt=0)


class EmbeddingObject(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: Annotated[list[float] | str, Field(description="A string if encoding_format is base64.")]


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


def to_request(body: EmbeddingsBody) -> EmbedRequest:
    return EmbedRequest(
        body.model, texts(body.input), body.dimensions, body.pooling, body.normalize,
        body.truncate_prompt_tokens, body.timeout, body.user, prompt_name=body.prompt_name,
    )  # fmt: skip


def answer(body: EmbeddingsBody, embeddings: Embeddings) -> bytes:
    """The whole answer as JSON text, written vector by vector so that other threads run in between."""
    encode = _base64 if body.encoding_format == "base64" else _floats
    data = ",".join(_object(index, encode(vector)) for index, vector in enumerate(embeddings.vectors))
    count = embeddings.prompt_tokens
    usage: EmbeddingUsage = {"prompt_tokens": count, "total_tokens": count}
    rest = dump({"model": body.model, "usage": usage})
    return f'{{"object":"list","data":[{data}],{rest[1:]}'.encode()


def _object(index: int, embedding: list[float] | str) -> str:
    written: EmbeddingObject = {"object": "embedding", "index": index, "embedding": embedding}
    return dump(written)


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _floats(vector: NDArray[np.float32]) -> list[float]:
    values: list[float] = vector.tolist()
    return values
