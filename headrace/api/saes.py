"""/v1/saes: load, attach, detach and look into sparse autoencoders. Changes need an administrator's key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator

from headrace.api.authentication import Admin
from headrace.api.errors import RESPONSES
from headrace.api.libraries import Files, library_of, steering_of
from headrace.api.listing import query_of
from headrace.api.request import Caller, Stored, in_time
from headrace.api.routes import V1, route
from headrace.errors import BadRequest, ConfigError
from headrace.offload import aside, check_wanted
from headrace.store import StoredAttachment
from headrace.wire import steering_objects as wire
from headrace.wire.limits import whole
from headrace.wire.pagination import limit_of

if TYPE_CHECKING:  # they need numpy, which a gateway does not
    from headrace.steering.library import ModelLibrary
    from headrace.steering.token_features import TokenFeatures, TokenScores

router = APIRouter(tags=["steering"], responses=RESPONSES)

T = TypeVar("T")


def _index(text: str) -> int:
    index = whole(text, 9)
    if index is None:
        raise ValueError("a feature is a whole number")
    return index


FeatureIndex = Annotated[int, BeforeValidator(_index)]

NEIGHBOURS = 8
MAX_TOKEN = 200  # characters
LENS_WORK = 2**30  # in headrace.offload's bytes: always in a thread
SAES = Files("sae", "SAE", lambda library: library.saes(), wire.sae)


@route(router, "GET", "/saes", under=V1, summary="List sparse autoencoders")
async def list_saes(http: Request, _: Caller) -> wire.WholeList[wire.SAEObject]:
    return await SAES.every(http)


@route(router, "POST", "/saes", under=V1, summary="Load a sparse autoencoder")
async def load_sae(http: Request, _: Admin, store: Stored, body: wire.SAEBody) -> wire.SAEObject:
    library = await library_of(http, body.model)
    work = partial(library.load_sae, body.id, Path(body.path), layer=body.layer)
    attachment = StoredAttachment(body.id, library.model, "sae", body.path, body.layer, body.attach)
    return await SAES.load(library, store, work, attachment)


@route(router, "GET", "/saes/{id}", under=V1, summary="Retrieve a sparse autoencoder")
async def retrieve_sae(http: Request, _: Caller, id: str) -> wire.SAEObject:
    return SAES.written(await library_of(http), id)


@route(router, "DELETE", "/saes/{id}", under=V1, summary="Forget a sparse autoencoder; its files stay")
async def delete_sae(http: Request, _: Admin, store: Stored, id: str) -> wire.DeletedObject:
    return await SAES.delete(http, store, id)


@route(
    router, "POST", "/saes/{id}/attach", under=V1, is_body_optional=True,
    summary="Make a sparse autoencoder usable by requests, while others run",
)  # fmt: skip
async def attach_sae(
    http: Request, _: Admin, store: Stored, id: str, body: wire.AttachBody
) -> wire.SAEObject:
    return await SAES.attach(http, store, id, body.layer)


@route(
    router, "POST", "/saes/{id}/detach", under=V1,
    summary="Stop new requests from using a sparse autoencoder; running ones finish as they began",
)  # fmt: skip
async def detach_sae(http: Request, _: Admin, store: Stored, id: str) -> wire.SAEObject:
    return await SAES.detach(http, store, id)


@route(router, "GET", "/saes/{id}/statistics", under=V1, summary="What probes saw of each feature")
async def sae_statistics(
    http: Request, response: Response, _: Caller, id: str
) -> wire.WholeList[wire.FeatureSummary]:
    library = await library_of(http)
    SAES.info(library, id)
    limit = limit_of(query_of(http, response, ("model", "limit")))
    labels, statistics = library.sae(id).info.labels, library.statistics(id)
    return wire.whole_list(
        [
            {
                "feature": entry.feature,
                "label": labels.get(entry.feature),
                "statistics": wire.statistics(entry),
            }
            for entry in statistics[:limit]
        ],
        has_more=len(statistics) > limit,
    )


@route(
    router, "GET", "/saes/{id}/features", under=V1,
    summary="Search features by their labels, or by the token that they write or read",
)  # fmt: skip
async def list_features(
    http: Request, response: Response, _: Caller, id: str
) -> wire.WholeList[wire.FeatureSummary]:
    library = await library_of(http)
    SAES.info(library, id)
    query = query_of(http, response, ("model", "limit", "q", "token"))
    limit, wanted, token = limit_of(query), dict(query).get("q", "").lower(), dict(query).get("token")
    if token is not None:
        features = await _with_lens(http, partial(_token_features, library, id, token[:MAX_TOKEN], limit))
        return wire.whole_list(_of_token(library, id, features), has_more=False)
    seen = {entry.feature: entry for entry in library.statistics(id)}
    labels = library.sae(id).info.labels
    named = [feature for feature, label in labels.items() if wanted in label.lower()]
    return wire.whole_list(
        [
            {"feature": feature, "label": labels[feature], "statistics": wire.statistics(seen.get(feature))}
            for feature in named[:limit]
        ],
        has_more=len(named) > limit,
    )


@route(router, "GET", "/saes/{id}/features/{feature}", under=V1, summary="Retrieve a feature")
async def retrieve_feature(
    http: Request, response: Response, _: Caller, id: str, feature: FeatureIndex
) -> wire.FeatureObject:
    library = await library_of(http)
    last = SAES.info(library, id).num_features - 1
    if not 0 <= feature <= last:
        raise BadRequest.at("feature", f"{id} has the features 0 to {last}")
    query = dict(query_of(http, response, ("model", "lens")))
    described = await asyncio.to_thread(_feature, library, id, feature)
    if query.get("lens", "false").lower() in ("true", "1"):
        scores = await _with_lens(http, partial(_token_scores, library, id, feature))
        described["lens"] = {
            "top": await _named(http, library, scores.top),
            "bottom": await _named(http, library, scores.bottom),
        }
    return described


async def _with_lens(http: Request, work: Callable[[], T]) -> T:
    """Run work that compiles the model's head and runs it: one at a time."""
    async with in_time(http), steering_of(http).lens:
        return await aside(LENS_WORK, work)


def _token_features(library: ModelLibrary, id: str, token: str, count: int) -> TokenFeatures:
    """Find the features that write a token, and those that read it. Raises BadRequest."""
    from headrace.steering.token_features import token_features

    sae = library.sae(id)
    try:
        return token_features(library.capture(), sae.encoder, sae.decoder, token, count, _go_on)
    except ConfigError as exc:
        raise BadRequest.at("token", exc.message) from exc


def _token_scores(library: ModelLibrary, id: str, feature: int) -> TokenScores:
    from headrace.steering.token_features import token_scores

    return token_scores(library.capture(), library.sae(id).decoder[feature], NEIGHBOURS)


def _go_on(label: str, done: int, total: int) -> None:
    check_wanted()


def _of_token(library: ModelLibrary, id: str, features: TokenFeatures) -> list[wire.FeatureSummary]:
    """The features that write a token, then those that read it."""
    labels = library.sae(id).info.labels
    seen = {entry.feature: entry for entry in library.statistics(id)}
    summaries: dict[int, wire.FeatureSummary] = {}
    for score in (*features.writers, *features.readers):
        feature = score.feature
        summaries[feature] = {
            "feature": feature,
            "label": labels.get(feature),
            "statistics": wire.statistics(seen.get(feature)),
        }
    for score in features.writers:
        summaries[score.feature]["writes"] = score.score
    for score in features.readers:
        summaries[score.feature]["reads"] = score.score
    return list(summaries.values())


async def _named(
    http: Request, library: ModelLibrary, scores: Sequence[tuple[int, float]]
) -> list[wire.TokenScore]:
    target = http.app.state.gateway.router.first(library.model)
    texts = await target.backend.token_texts(library.model, [token for token, _ in scores])
    return [{"token": text, "score": score} for text, (_, score) in zip(texts, scores, strict=True)]


def _feature(library: ModelLibrary, id: str, feature: int) -> wire.FeatureObject:
    from headrace.steering.token_features import lengths, neighbours

    sae = library.sae(id)
    labels = sae.info.labels
    near: list[wire.Neighbour] = [
        {"feature": index, "cosine": cosine, "label": labels.get(index)}
        for index, cosine in neighbours(sae, feature, NEIGHBOURS)
    ]
    encoder_norm, decoder_norm = lengths(sae, feature)
    seen = next((entry for entry in library.statistics(id) if entry.feature == feature), None)
    return {
        "object": "sae.feature",
        "sae": id,
        "feature": feature,
        "label": labels.get(feature),
        "decoder_norm": decoder_norm,
        "encoder_norm": encoder_norm,
        "statistics": wire.statistics(seen),
        "history": [wire.history(entry) for entry in library.history(id, feature)],
        "neighbours": near,
        "lens": None,
    }
