"""One cross-encoder as a backend: it reads a query and a document together, and scores the document."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from headrace.backends.embedder.served import CHARACTER, EncoderBackend, Loaded
from headrace.backends.ranking import check_repeated
from headrace.encoder_types import Marked
from headrace.errors import BadRequest
from headrace.features import Feature
from headrace.models.model import Model
from headrace.offload import aside
from headrace.rerank_types import Ranking, RerankRequest
from headrace.types import Embeddings, EmbedRequest

if TYPE_CHECKING:
    from headrace.text.pair_tokenizer import PairTokenizer

FEATURES = frozenset({Feature.RERANK, Feature.INPUT_TRUNCATION})


class CrossEncoderBackend(EncoderBackend[Marked, "PairTokenizer"]):
    """Serves a classifier of pairs with one label, with PyTorch."""

    kind = "reranker"
    features = FEATURES
    by_us = FEATURES

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
            size = len(request.query) * len(request.documents) + sum(map(len, request.documents))
            pairs = await aside(size * CHARACTER, encode)
            scores = await self._batcher_of(loaded).run(pairs, self.embedding.pooling)
            return Ranking(tuple(scores[:, 0].tolist()), "cross-encoder", sum(map(len, pairs)))

    def _load_files(self, model: Model) -> Loaded[Marked, PairTokenizer]:
        from headrace.engine.torch.encoder import TorchEncoder
        from headrace.text.pair_tokenizer import PairTokenizer

        settings = self._settings
        encoder = TorchEncoder(
            model.folder,
            self.embedding,
            settings.torch,
            exact=settings.exact,
            num_threads=settings.num_threads,
        )
        return Loaded(model, PairTokenizer(model.folder, self.embedding.max_tokens), encoder)
