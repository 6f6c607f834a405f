"""The JSON of /v1/embeddings, and of /v1/rerank: that of Jina and Cohere, as vLLM and llama.cpp's
server write it.
"""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired

from pydantic import Discriminator, Field, StringConstraints, Tag
from typing_extensions import TypedDict

from headrace.encoder_types import Ranking, RerankMethod, RerankRequest
from headrace.types import Embeddings, EmbedRequest
from headrace.wire.completions import Tokens, kind_of_list, texts
from headrace.wire.generation import INT64, dump
from headrace.wire.limits import MAX_DOCUMENTS, MAX_INPUTS, at_most
from headrace.wire.parameters import RequestBody

if TYPE_CHECKING:  # without a local model, numpy is not needed
    import numpy as np
    from numpy.typing import NDArray

Encoding = Literal["float", "base64"]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Inputs = Annotated[
    Annotated[NonEmpty, Tag("string")]
    | Annotated[list[NonEmpty], at_most(MAX_INPUTS), Tag("strings")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Tokens], at_most(MAX_INPUTS), Tag("lists")],
    Discriminator(kind_of_list),
]


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


class DocumentBody(RequestBody):
    """A document as an object."""

    text: NonEmpty


class RerankBody(RequestBody):
    """The body of POST /v1/rerank."""

    model: str
    query: NonEmpty
    documents: Annotated[list[NonEmpty | DocumentBody], at_most(MAX_DOCUMENTS, least=1)]
    top_n: int | None = Field(None, ge=1, lt=INT64)
    return_documents: bool | None = True
    instruction: NonEmpty | None = Field(None, description="Extension. What makes a document relevant.")
    truncate_prompt_tokens: int | None = Field(None, ge=-1, lt=INT64)
    user: str | None = None
    timeout: float | None = Field(None, gt=0)


class DocumentObject(TypedDict):
    text: str


class ResultObject(TypedDict):
    index: Annotated[int, Field(description="The document's place in the request.")]
    relevance_score: Annotated[float, Field(description="The higher, the more relevant; see `method`.")]
    document: NotRequired[DocumentObject]


class RerankUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class RerankList(TypedDict):
    id: str
    object: Literal["list"]
    model: str
    method: Annotated[
        RerankMethod,
        Field(
            description="Extension. `judge`: the probability that the model answers yes; `embeddings`: the "
            "cosine of vectors; `cross-encoder`: the model's own output; `provider`: as the provider does."
        ),
    ]
    results: Annotated[list[ResultObject], Field(description="The most relevant document first.")]
    usage: Annotated[RerankUsage | None, Field(description="Null: the provider has not said.")]


def to_rerank_request(body: RerankBody) -> RerankRequest:
    return RerankRequest(
        body.model,
        body.query,
        tuple(_document_text(document) for document in body.documents),
        body.instruction,
        body.truncate_prompt_tokens,
        body.timeout,
        body.user,
    )


def rerank_answer(body: RerankBody, model: str, ranking: Ranking) -> bytes:
    """The whole answer as JSON text, written result by result so that other threads run in between."""
    order = sorted(range(len(ranking.scores)), key=lambda index: -ranking.scores[index])
    results = ",".join(
        dump(_rerank_result(body, index, ranking.scores[index])) for index in order[: body.top_n]
    )
    count = ranking.prompt_tokens
    usage: RerankUsage | None = None if count is None else {"prompt_tokens": count, "total_tokens": count}
    head = {
        "id": f"rerank-{secrets.token_hex(12)}",
        "object": "list",
        "model": model,
        "method": ranking.method,
        "usage": usage,
    }
    return f'{dump(head)[:-1]},"results":[{results}]}}'.encode()


def _rerank_result(body: RerankBody, index: int, score: float) -> ResultObject:
    result: ResultObject = {"index": index, "relevance_score": score}
    if body.return_documents is not False:
        result["document"] = {"text": _document_text(body.documents[index])}
    return result


def _document_text(document: str | DocumentBody) -> str:
    return document if isinstance(document, str) else document.text
