"""/v1/activations: what the features of an SAE do on texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace.api.answers import LiveStream, Reply, respond
from headrace.api.errors import RESPONSES
from headrace.api.libraries import library_of
from headrace.api.listing import query_of
from headrace.api.openapi import EVENT_STREAM, response_of
from headrace.api.request import Caller, check_unsteered, in_time, prepared
from headrace.api.routes import V1, route
from headrace.api.saes import SAES
from headrace.collected import Collected
from headrace.gateway.gateway import Gateway
from headrace.gateway.monitor import Follower
from headrace.steering.types import Activations, Probe
from headrace.types import Json, ModelInfo, Started
from headrace.wire import activations_of_text as wire
from headrace.wire.activations import TokenActivations, feature_activations
from headrace.wire.limits import MAX_TOP_FEATURES
from headrace.wire.steering import Labels
from headrace.wire.steering_objects import WholeList, whole_list

if TYPE_CHECKING:  # it needs numpy, which a gateway does not
    from headrace.steering.library import ModelLibrary

router = APIRouter(tags=["steering"], responses=RESPONSES)

WATCHED_S = 1.0  # how often a stream looks whether the server shuts down
WATCHED = response_of(
    wire.WatchedActivations, "`data: {entry}` events, until the caller leaves.", EVENT_STREAM
)
STREAMED = response_of(
    TokenActivations, "`data: {entry}` events, one for each token, then `data: [DONE]`.", EVENT_STREAM
)


@route(router, "POST", "/activations", under=V1, summary="Read an SAE's activations on each token of a text")
async def read_activations(
    http: Request, caller: Caller, body: wire.ActivationsBody
) -> wire.ActivationsObject:
    library = await _library(http, body.model, body.sae)
    probe = _probe(body.sae, body.top_k, tuple(body.features or ()))
    content = await _read(http, library, body, probe, caller.id)
    labels = {body.sae: library.sae(body.sae).info.labels}
    return {
        "object": "activations",
        "model": library.model,
        "sae": body.sae,
        "feature_activations": feature_activations(content, labels),
    }


@route(
    router, "POST", "/activations/stream", under=V1, answer=TokenActivations,
    summary="Read an SAE's activations on each token of a text, as server-sent events",
    responses={200: STREAMED},
)  # fmt: skip
async def stream_activations(http: Request, caller: Caller, body: wire.ActivationsBody) -> Response:
    library = await _library(http, body.model, body.sae)
    probe = _probe(body.sae, body.top_k, tuple(body.features or ()))
    request = await prepared(http, partial(wire.to_request, body, library.model, probe, caller.id))
    labels = {body.sae: library.sae(body.sae).info.labels}
    reply = Reply(partial(wire.Entries, labels), _never_whole)
    return await respond(http, http.app.state.gateway.start(request), reply, {})


@route(
    router, "GET", "/activations/stream", under=V1, answer=wire.WatchedActivations,
    summary="Follow what probes read in one's own requests",
    extra={"parameters": wire.WATCHED_PARAMETERS},
    responses={200: WATCHED},
)  # fmt: skip
async def watch_activations(http: Request, response: Response, caller: Caller) -> Response:
    query = dict(query_of(http, response, ("request_id", "sae")))
    sae = query.get("sae")
    if sae is not None and sae not in _labels(http.app.state.gateway):
        SAES.info(await library_of(http), sae, param="sae")
    texts = _watched(http, Follower(caller.id, query.get("request_id"), sae))
    return LiveStream(texts, {}, texts.aclose)


async def _watched(http: Request, follower: Follower) -> AsyncGenerator[list[str], None]:
    gateway: Gateway = http.app.state.gateway
    with gateway.monitor.following(follower):
        while not gateway.is_draining:
            seen = await follower.next(WATCHED_S)
            labels = _labels(gateway) if seen else {}
            yield [wire.watched(one, labels) for one in seen]


def _labels(gateway: Gateway) -> Labels:
    """The labels of the features of every SAE that is loaded."""
    libraries = [backend.library(info.id) for backend in gateway.backends for info in backend.models()]
    return {sae.id: sae.labels for library in libraries if library is not None for sae in library.saes()}


def _never_whole(info: ModelInfo, collected: Collected) -> Json:
    raise AssertionError("it is streamed")


@route(router, "POST", "/activations/top", under=V1, summary="List the most active features of a text")
async def top_activations(
    http: Request, caller: Caller, body: wire.TopBody
) -> WholeList[wire.TopFeatureObject]:
    library = await _library(http, body.model, body.sae)
    content = await _read(http, library, body, _probe(body.sae), caller.id)
    return whole_list(wire.top(content, library.sae(body.sae).info.labels, body.limit))


@route(
    router, "POST", "/activations/compare", under=V1,
    summary="List the features that differ most between two texts",
)  # fmt: skip
async def compare_activations(
    http: Request, caller: Caller, body: wire.CompareBody
) -> WholeList[wire.ComparedFeature]:
    library = await _library(http, body.model, body.sae)
    first = await _read(http, library, body.a, _probe(body.sae), caller.id)
    second = await _read(http, library, body.b, _probe(body.sae), caller.id)
    return whole_list(wire.compared(first, second, library.sae(body.sae).info.labels, body.limit))


def _probe(sae: str, top_k: int = MAX_TOP_FEATURES, features: tuple[int, ...] = ()) -> Probe:
    """A probe of a text; of as many active features as one may return, unless others are wanted."""
    return Probe(sae, features, top_k, generation=False, require_all=True, param="")


async def _library(http: Request, model: str | None, sae: str) -> ModelLibrary:
    """The library that has this SAE. Raises NotFound, SteeringRefused."""
    check_unsteered(http)
    library = await library_of(http, model)
    SAES.info(library, sae, param="sae")
    return library


async def _read(
    http: Request, library: ModelLibrary, body: wire.TextBody, probe: Probe, owner: str
) -> list[Activations]:
    """The readings of each token of a text. Raises ServerError."""
    request = await prepared(http, partial(wire.to_request, body, library.model, probe, owner))
    async with in_time(http):
        generation = await http.app.state.gateway.start(request)
        content: list[Activations] = []
        num_prompt = 0
        try:
            async for event in generation:
                if isinstance(event, Started):
                    num_prompt = event.prompt_tokens
                else:
                    content += event.activations
        finally:
            await asyncio.shield(generation.aclose())
    return [entry for entry in content if entry.position < num_prompt]
