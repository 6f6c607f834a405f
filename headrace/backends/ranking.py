"""Reads a provider's embedding vectors, and scores documents: by the vectors of an embedding model, or as a
provider has sent them.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterable, Mapping

from headrace.dialects.values import count, number, objects
from headrace.encoder_types import Ranking, RerankRequest
from headrace.errors import BadRequest, ProviderError
from headrace.types import Embeddings, EmbedRequest

QUERY = "input.0"  # of the request for embeddings; the documents follow
MAX_REPEATED = 4 * 2**20  # characters of query and instruction, times the documents


def check_repeated(request: RerankRequest) -> None:
    """Raise BadRequest if reading the query once for each document would take too long."""
    repeated = len(request.query) + len(request.instruction or "")
    if repeated * len(request.documents) > MAX_REPEATED:
        raise BadRequest.at(
            "query",
            f"its {repeated} characters are read once for each of {len(request.documents)} "
            f"documents, which would be more than {MAX_REPEATED}",
        )


async def by_embeddings(
    embed: Callable[[EmbedRequest], Awaitable[Embeddings]], request: RerankRequest
) -> Ranking:
    """The cosine of the query's vector and each document's. Raises what `embed` raises."""
    texts = (request.query, *request.documents)
    keep = request.truncate_prompt_tokens
    try:
        embeddings = await embed(
            EmbedRequest(
                request.model, texts, normalize=True, truncate_prompt_tokens=keep,
                timeout_s=request.timeout_s, owner=request.owner, flow=request.flow,
            )
        )  # fmt: skip
    except BadRequest as exc:
        exc.param = _member(exc.param)
        raise
    query, *documents = embeddings.vectors  # of length 1
    scores = tuple(float(query @ document) for document in documents)
    return Ranking(scores, "embeddings", embeddings.prompt_tokens)


def _member(param: str | None) -> str | None:
    """The member of a rerank request that a member of the request for embeddings comes from."""
    if param is None or not param.startswith("input."):
        return param
    return "query" if param == QUERY else f"documents.{int(param.removeprefix('input.')) - 1}"


def ranking(provider: str, body: object, num_documents: int) -> Ranking:
    """Read a provider's answer, with a result for each document: Jina's and Cohere's, or a list alone, as
    TEI's, and `data` and `score`, as others name them. Raises ProviderError.
    """
    members: Mapping[str, object] = body if isinstance(body, dict) else {"results": body}
    scores: dict[int, float] = {}
    for result in objects(members.get("results", members.get("data"))):
        index = count(result.get("index"))
        score = number(result.get("relevance_score", result.get("score")))
        if index is not None and score is not None:
            scores[index] = score
    if set(scores) != set(range(num_documents)):
        raise ProviderError(f"{provider} answered with something that is no score for each document")
    return Ranking(tuple(scores[index] for index in range(num_documents)), "provider", _tokens(members))


def _tokens(members: Mapping[str, object]) -> int | None:
    usage = members.get("usage")
    if not isinstance(usage, dict):
        return None
    return count(usage.get("prompt_tokens")) or count(usage.get("total_tokens"))


def embeddings(
    provider: str, read: Callable[[], tuple[Iterable[object], int]], num_inputs: int
) -> Embeddings:
    """Read a provider's embeddings. `read` returns a vector for each input, and the number of tokens. A
    vector is a list of numbers, or little-endian float32 in base64, which some providers send unasked. Raises
    ProviderError for all else.
    """
    import numpy as np  # a gateway needs it for nothing else

    def vector(row: object) -> object:
        return np.frombuffer(base64.b64decode(row, validate=True), "<f4") if isinstance(row, str) else row

    try:
        rows, num_tokens = read()
        # row by row, as numpy holds the GIL for as long as one call takes
        vectors = np.array([np.asarray(vector(row), np.float32) for row in rows], np.float32)
        if len(vectors) != num_inputs or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ValueError(f"{vectors.shape} is not one vector of numbers for each of {num_inputs} inputs")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise ProviderError(f"{provider} answered with something that is no embeddings") from exc
    return Embeddings(vectors, num_tokens)
