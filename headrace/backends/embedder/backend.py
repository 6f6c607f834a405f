"""One embedding model as a backend: texts in, vectors out. At its first use it is fetched and compiled. One
cross-encoder as a backend: it reads a query and a document together, and scores the document.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from headrace.backends.embedder.base import CHARACTER, TEXT, EncoderBackend, Loaded
from headrace.backends.embedder.batcher import Encoder
from headrace.backends.ranking import by_embeddings, check_repeated
from headrace.encoder_types import Marked, Ranking, RerankRequest
from headrace.errors import BadRequest
from headrace.features import Feature
from headrace.models.model import ONNX, Model
from headrace.offload import aside
from headrace.types import Embeddings, EmbedRequest

if TYPE_CHECKING:  # numpy and the tokenizers take 20 MB, which a model needs from its first use on
    import numpy as np
    from numpy.typing import NDArray

    from headrace.text.encoder_tokenizer import EncoderTokenizer, PairTokenizer

    Ids = NDArray[np.int32]

RERANK_FEATURES = frozenset({Feature.RERANK, Feature.INPUT_TRUNCATION})
FEATURES = frozenset(
    {
        Feature.DIMENSIONS, Feature.EMBEDDINGS, Feature.EMBEDDING_PROMPT, Feature.INPUT_TRUNCATION,
        Feature.POOLING, Feature.RERANK, Feature.UNSCALED_VECTORS,
    }
)  # fmt: skip
# What publishers call the prompts of the two kinds of text in a search.
QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")


class EmbedderBackend(EncoderBackend["Ids", "EncoderTokenizer"]):
    """Serves an embedding model: with OpenVINO if it is an ONNX file, else with PyTorch."""

    features = FEATURES
    by_us = FEATURES

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Embed the inputs. Raises BadRequest, ContextTooLong, Overloaded, ModelUnavailable, EngineFailed."""
        return await self._embedded(request, self._prompt(request))

    async def _embedded(self, request: EmbedRequest, prompt: str) -> Embeddings:
        """`embed` with `prompt` before each text."""
        width, own = self.embedding.width, self.embedding.pooling
        if request.dimensions is not None and request.dimensions > width:
            raise BadRequest(
                f"dimensions is {request.dimensions}, this model's vectors have {width}", param="dimensions"
            )
        with self._place():
            loaded = await self._loading.get()
            keep = request.truncate_prompt_tokens
            encode = partial(loaded.tokenizer.encode, request.inputs, "input", keep, prompt)
            size = sum(map(len, request.inputs)) + (len(prompt) + TEXT) * len(request.inputs)
            texts = await aside(size * CHARACTER, encode)
            vectors = await self._batcher_of(loaded).run(texts, request.pooling or own)
            is_scaled = self.embedding.is_scaled if request.normalize is None else request.normalize
            fit = partial(_fitted, vectors, request.dimensions, is_scaled=is_scaled)
            fitted = await aside(vectors.nbytes, fit)
            return Embeddings(fitted, sum(map(len, texts)))

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Score documents by the cosine of their vectors and the query's, each after its own prompt. Raises
        what `embed` raises.
        """
        query, document = self._named(QUERY), self._named(DOCUMENT)
        documents = tuple(document + text for text in request.documents)
        return await by_embeddings(
            partial(self._embedded, prompt=""),
            replace(request, query=query + request.query, documents=documents),
        )

    def _prompt(self, request: EmbedRequest) -> str:
        """What precedes each text. Raises BadRequest for a name that the model does not have."""
        prompts, name = self.embedding.prompts, request.prompt_name
        if name is None:
            return prompts.get(self.embedding.default_prompt, "")
        if name not in prompts:
            known = ", ".join(prompts) or "none"
            raise BadRequest.at(
                "prompt_name", f"{request.model} has no prompt {name[:100]!r}; it has {known}"
            )
        if any(not isinstance(text, str) for text in request.inputs):
            raise BadRequest("prompt_name is for texts; the input is token ids", param="prompt_name")
        return prompts[name]

    def _named(self, names: tuple[str, ...]) -> str:
        """The first of these prompts that the model has; nothing if it has none."""
        return next((self.embedding.prompts[name] for name in names if name in self.embedding.prompts), "")

    def _load_files(self, model: Model) -> Loaded[Ids, EncoderTokenizer]:
        from headrace.text.encoder_tokenizer import EncoderTokenizer

        embedding = self.embedding
        tokenizer = EncoderTokenizer(model.folder, embedding.max_tokens, lowercases=embedding.lowercases)
        return Loaded(model, tokenizer, self._encoder(model))

    def _encoder(self, model: Model) -> Encoder[Ids]:
        if model.is_checkpoint:
            return self._torch_encoder(model)
        from headrace.engine.encoder import EncoderOptions, OpenVINOEncoder

        options = EncoderOptions(exact=self._settings.exact, num_threads=self._settings.num_threads)
        return OpenVINOEncoder(model.folder / ONNX, options)


def _fitted(vectors: NDArray[np.float32], dimensions: int | None, *, is_scaled: bool) -> NDArray[np.float32]:
    """The first dimensions of each vector, scaled to length 1 unless they are all 0."""
    import numpy as np

    vectors = vectors[:, :dimensions]
    if not is_scaled:
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths, lengths, 1)).astype(np.float32)


class CrossEncoderBackend(EncoderBackend[Marked, "PairTokenizer"]):
    """Serves a classifier of pairs with one label, with PyTorch."""

    kind = "reranker"
    features = RERANK_FEATURES
    by_us = RERANK_FEATURES

    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise BadRequest(f"{request.model} scores documents; it embeds none", param="model")

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Score the documents. Raises BadRequest, ContextTooLong, Overloaded, ModelUnavailable,
        EngineFailed.
        """
        check_repeated(request)
        with self._place():
            loaded = await self._loading.get()
            keep = request.truncate_prompt_tokens
            encode = partial(loaded.tokenizer.encode, request.query, request.documents, keep)
            size = sum(map(len, request.documents)) + (len(request.query) + TEXT) * len(request.documents)
            pairs = await aside(size * CHARACTER, encode)
            scores = await self._batcher_of(loaded).run(pairs, self.embedding.pooling)
            return Ranking(tuple(scores[:, 0].tolist()), "cross-encoder", sum(map(len, pairs)))

    def _load_files(self, model: Model) -> Loaded[Marked, PairTokenizer]:
        from headrace.text.encoder_tokenizer import PairTokenizer

        tokenizer = PairTokenizer(model.folder, self.embedding.max_tokens)
        return Loaded(model, tokenizer, self._torch_encoder(model))
