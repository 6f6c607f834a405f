"""That backends tell the truth: every feature that one carries is in what its provider is sent, and every
other one is refused or named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from docgen.compatibility import EVERY, NEEDED, kinds
from headrace.backends.anthropic.request import to_body
from headrace.backends.anthropic.thinking import of_name
from headrace.backends.cerebras import CerebrasBackend
from headrace.backends.llamacpp.choices import split_choices
from headrace.backends.llamacpp.dialect import LlamaCppDialect
from headrace.backends.ollama.request import bodies_of, check, embed_body
from headrace.backends.openai import OpenAIBackend
from headrace.backends.openai.body import embed_body as openai_embed_body
from headrace.backends.openai.body import rerank_body
from headrace.config import ProviderConfig
from headrace.encoder_types import RerankRequest
from headrace.errors import SteeringRefused, UnsupportedParameter
from headrace.features import Feature, Use, Uses
from headrace.types import EmbedRequest, GenerateRequest
from tests.wire.asking import SAMPLES, Asked, request


def ollama(request: GenerateRequest) -> object:
    check(request)
    return bodies_of(request)


OPENAI = OpenAIBackend("p", ProviderConfig(kind="openai"), None)
CEREBRAS = CerebrasBackend("p", ProviderConfig(kind="cerebras"), None)
LLAMACPP = LlamaCppDialect("p", ProviderConfig(kind="llamacpp"), None)
ENDPOINTS = {Feature.EMBEDDINGS, Feature.RERANK}  # no member stands for them
GENERATING: dict[str, Callable[[GenerateRequest], object]] = {
    "openai": OPENAI.write,
    "cerebras": CEREBRAS.write,
    "anthropic": lambda request: to_body(request, of_name(request.model)),
    "ollama": ollama,
    "llamacpp": lambda request: [LLAMACPP.write(one) for one in split_choices(request)],
}
EMBEDDING: dict[str, Callable[[EmbedRequest], object]] = {"openai": openai_embed_body, "ollama": embed_body}

RERANKING: dict[str, Callable[[RerankRequest], object]] = {"openai": rerank_body}


def written(kind: str, request: Asked) -> object:
    if isinstance(request, GenerateRequest):
        return GENERATING[kind](request)
    return EMBEDDING[kind](request) if isinstance(request, EmbedRequest) else RERANKING[kind](request)


def samples(kind: str, feature: Feature) -> Iterator[tuple[str, str]]:
    """The members that ask for a feature, of the endpoints that the backend has."""
    for endpoint, table in EVERY.items():
        if endpoint not in NEEDED or NEEDED[endpoint] in kinds()[kind].features:
            yield from ((endpoint, name) for name, row in table.items() if row.asks is feature)


@pytest.mark.parametrize("kind", GENERATING)
def test_what_is_carried_reaches_the_provider(kind: str) -> None:
    backend, lost = kinds()[kind], []
    for feature in sorted(backend.features - backend.by_us - ENDPOINTS, key=lambda one: one.name):
        endpoint, name = next(samples(kind, feature))
        before, more = SAMPLES[endpoint][name]
        with_it: Any = written(kind, request(endpoint, {**before, **more}))
        if with_it == written(kind, request(endpoint, before)):
            lost.append((feature.name, endpoint, name))
    assert lost == []


@pytest.mark.parametrize("kind", kinds())
def test_what_is_not_carried_is_refused_or_named(kind: str) -> None:
    backend = kinds()[kind]
    assert backend.by_us <= backend.features
    assert not backend.unsent & backend.features
    for feature in set(Feature) - backend.features:
        uses = Uses((Use("the.0.path", feature, feature.loss),))
        if feature.loss == "refused":
            with pytest.raises((UnsupportedParameter, SteeringRefused)) as caught:
                uses.left_out(backend.features, backend.unsent)
            assert caught.value.param == "the.0.path"
        else:
            assert uses.left_out(backend.features, backend.unsent) == ["the.0.path"]


@pytest.mark.parametrize(("model", "takes_it"), [("gpt-oss-120b", True), ("llama3.1-8b", False)])
def test_what_cerebras_carries_depends_on_the_model(model: str, takes_it: bool) -> None:
    features = CEREBRAS.features_of(model)
    assert (Feature.PARALLEL_TOOL_CALLS in features) is takes_it
    assert Feature.LOGIT_BIAS not in features
