"""/v1/saes: load, attach, detach and look into sparse autoencoders. Changes need an administrator's key."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import APIRouter, Request, Response

from headrace.api.admin import Admin
from headrace.api.errors import RESPONSES
from headrace.api.libraries import existing, in_thread, libraries, library_of
from headrace.api.listing import query_of
from headrace.api.request import Caller, Stored
from headrace.api.routes import V1, route
from headrace.errors import BadRequest
from headrace.steering.types import Library
from headrace.store import Store, StoredAttachment
from headrace.wire import steering_objects as wire
from headrace.wire.pagination import limit_of

router = APIRouter(tags=["steering"], responses=RESPONSES)

NEIGHBOURS = 8


@route(router, "GET", "/saes", under=V1, summary="List sparse autoencoders")
async def list_saes(http: Request, _: Caller) -> wire.WholeList[wire.SAEObject]:
    found = [wire.sae(info, library.model) for library in libraries(http) for info in library.saes()]
    return wire.whole_list(found)


@route(router, "POST", "/saes", under=V1, summary="Load a sparse autoencoder")
async def load_sae(http: Request, _: Admin, store: Stored, body: wire.SAEBody) -> wire.SAEObject:
    library = library_of(http, body.model)
    info = await in_thread(partial(library.load_sae, body.id, Path(body.path), layer=body.layer))
    if body.attach:
        await in_thread(partial(library.attach, body.id))
    attachment = StoredAttachment(body.id, library.model, "sae", body.path, body.layer, body.attach)
    await store.steering.save_attachment(attachment)
    return _described(library, info.id)


@route(router, "GET", "/saes/{id}", under=V1, summary="Retrieve a sparse autoencoder")
async def retrieve_sae(http: Request, _: Caller, id: str) -> wire.SAEObject:
    return _described(library_of(http), id)


@route(router, "DELETE", "/saes/{id}", under=V1, summary="Forget a sparse autoencoder; its files stay")
async def delete_sae(http: Request, _: Admin, store: Stored, id: str) -> wire.DeletedObject:
    library = library_of(http)
    _described(library, id)
    await in_thread(partial(library.remove, id))
    await store.steering.delete_attachment(library.model, id)
    return {"id": id, "object": "sae", "deleted": True}


@route(
    router, "POST", "/saes/{id}/attach", under=V1, is_body_optional=True,
    summary="Make a sparse autoencoder usable by requests, while others run",
)  # fmt: skip
async def attach_sae(
    http: Request, _: Admin, store: Stored, id: str, body: wire.AttachBody
) -> wire.SAEObject:
    library = library_of(http)
    _described(library, id)
    await in_thread(partial(library.attach, id, layer=body.layer))
    await _remember(store, library, id, is_attached=True)
    return _described(library, id)


@route(
    router, "POST", "/saes/{id}/detach", under=V1,
    summary="Stop new requests from using a sparse autoencoder; running ones finish as they began",
)  # fmt: skip
async def detach_sae(http: Request, _: Admin, store: Stored, id: str) -> wire.SAEObject:
    library = library_of(http)
    _described(library, id)
    await in_thread(partial(library.detach, id))
    await _remember(store, library, id, is_attached=False)
    return _described(library, id)


@route(router, "GET", "/saes/{id}/statistics", under=V1, summary="What probes saw of each feature")
async def sae_statistics(
    http: Request, response: Response, _: Caller, id: str
) -> wire.WholeList[wire.FeatureSummary]:
    library = library_of(http)
    _described(library, id)
    limit = limit_of(query_of(http, response, ("model", "limit")))
    labels, found = library.sae(id).info.labels, library.statistics(id)
    return wire.whole_list(
        [
            {
                "feature": entry.feature,
                "label": labels.get(entry.feature),
                "statistics": wire.statistics(entry),
            }
            for entry in found[:limit]
        ],
        has_more=len(found) > limit,
    )


@route(router, "GET", "/saes/{id}/features", under=V1, summary="Search features by their labels")
async def list_features(
    http: Request, response: Response, _: Caller, id: str
) -> wire.WholeList[wire.FeatureSummary]:
    library = library_of(http)
    _described(library, id)
    query = query_of(http, response, ("model", "limit", "q"))
    limit, wanted = limit_of(query), dict(query).get("q", "").lower()
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
async def retrieve_feature(http: Request, _: Caller, id: str, feature: int) -> wire.FeatureObject:
    library = library_of(http)
    info = _described(library, id)
    if not 0 <= feature < info["num_features"]:
        raise BadRequest(f"feature: {id} has the features 0 to {info['num_features'] - 1}", param="feature")
    return await in_thread(partial(_feature, library, id, feature))


def _feature(library: Library, id: str, feature: int) -> wire.FeatureObject:
    from headrace.steering.neighbours import lengths, neighbours

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
        "neighbours": near,
    }


def _described(library: Library, id: str) -> wire.SAEObject:
    """Raises NotFound."""
    found = {info.id: info for info in library.saes()}
    existing(list(found), id, "SAE")
    return wire.sae(found[id], library.model)


async def _remember(store: Store, library: Library, id: str, *, is_attached: bool) -> None:
    """Store whether an SAE is attached, for the next start."""
    info = next(info for info in library.saes() if info.id == id)
    if info.path is not None:
        layer = info.layers[0] if info.layers else info.layer
        await store.steering.save_attachment(
            StoredAttachment(id, library.model, "sae", str(info.path), layer, is_attached)
        )
