"""The JSON of /v1/rerank: that of Jina and Cohere, as vLLM and llama.cpp's server write it."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headrace.rerank_types import Ranking, RerankMethod, RerankRequest
from headrace.wire.generation import INT64, dump
from headrace.wire.limits import MAX_DOCUMENTS, at_most
from headrace.wire.parameters import RequestBody
from headrace.wire.prompts import NonEmpty


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


def to_request(body: RerankBody) -> RerankRequest:
    return RerankRequest(
        body.model,
        body.query,
        tuple(_text(document) for document in body.documents),
        body.instruction,
        body.truncate_prompt_tokens,
        body.timeout,
        body.user,
    )


def answer(body: RerankBody, model: str, ranking: Ranking) -> bytes:
    """The whole answer as JSON text, written result by result so that other threads run in between."""
    order = sorted(range(len(ranking.scores)), key=lambda index: -ranking.scores[index])
    results = ",".join(dump(_result(body, index, ranking.scores[index])) for index in order[: body.top_n])
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


def _result(body: RerankBody, index: int, score: float) -> ResultObject:
    result: ResultObject = {"index": index, "relevance_score": score}
    if body.return_documents is not False:
        result["document"] = {"text": _text(body.documents[index])}
    return result


def _text(document: str | DocumentBody) -> str:
    return document if isinstance(document, str) else document.text
