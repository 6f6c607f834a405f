"""/v1/vectors: load, attach, detach and fetch control vectors. Changes need an administrator's key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

from headrace.api.authentication import Admin
from headrace.api.errors import RESPONSES
from headrace.api.libraries import Files, library_of
from headrace.api.request import Caller, Stored, in_time
from headrace.api.routes import V1, route
from headrace.errors import BadRequest, ConfigError, NotFound
from headrace.offload import aside, check_wanted
from headrace.store import StoredAttachment
from headrace.wire import steering_objects as wire

if TYPE_CHECKING:  # they need numpy, which a gateway does not
    import numpy as np
    from numpy.typing import NDArray

    from headrace.steering.library import ModelLibrary

    Directions = NDArray[np.float32]

WORK = 2**30  # of training, in headrace.offload's bytes: always in a thread
MAX_TRAINED = 20_000  # tokens of all texts together
MAX_TEXT, CHARACTERS = 1_024, 32  # tokens that are read of one text, and characters of one token at most
VECTORS = Files("vector", "control vector", lambda library: library.vectors(), wire.vector)

router = APIRouter(tags=["steering"], responses=RESPONSES)


@route(router, "GET", "/vectors", under=V1, summary="List control vectors")
async def list_vectors(http: Request, _: Caller) -> wire.WholeList[wire.VectorObject]:
    return await VECTORS.every(http)


@route(router, "POST", "/vectors", under=V1, summary="Load a control vector from a GGUF file")
async def load_vector(http: Request, _: Admin, store: Stored, body: wire.VectorBody) -> wire.VectorObject:
    library = await library_of(http, body.model)
    work = partial(library.load_vector, body.id, Path(body.path))
    attachment = StoredAttachment(body.id, library.model, "vector", body.path, None, body.attach)
    return await VECTORS.load(library, store, work, attachment)


@route(router, "POST", "/vectors/train", under=V1, summary="Train a control vector from texts")
async def train_vector(http: Request, _: Admin, store: Stored, body: wire.TrainBody) -> wire.VectorObject:
    library = await library_of(http, body.model)
    _check_free(library, body)
    async with in_time(http):
        directions = await aside(WORK, partial(_train, library, body))
    if body.overwrite and body.id in [info.id for info in library.vectors()]:
        await asyncio.to_thread(library.remove, body.id)
    await asyncio.to_thread(library.add_vector, body.id, directions)
    if body.attach:
        await asyncio.to_thread(library.attach, body.id)
    return await VECTORS.remember(store, library, body.id, is_attached=body.attach)


def _train(library: ModelLibrary, body: wire.TrainBody) -> dict[int, Directions]:
    """The directions by layer. Raises BadRequest."""
    from headrace.steering.vector_training import direction

    capture = library.capture()
    layers = sorted(set(body.layers))
    if layers[-1] >= capture.num_layers:
        raise BadRequest.at("layers", f"the model has the layers 0 to {capture.num_layers - 1}")
    sides: list[list[Mapping[int, Directions]]] = []
    left = MAX_TRAINED
    for name, texts in (("positive", body.positive), ("negative", body.negative)):
        sides.append([])
        for index, text in enumerate(texts):
            check_wanted()
            tokens = capture.tokens(text[: CHARACTERS * MAX_TEXT])[:MAX_TEXT]
            left -= len(tokens)
            if len(tokens) < 2 or left < 0:
                problem = "it is too short" if len(tokens) < 2 else f"all have more than {MAX_TRAINED} tokens"
                raise BadRequest(f"{name}[{index}]: {problem}", param=f"{name}[{index}]")
            sides[-1].append(capture.states(tokens, layers))
    above, below = sides
    try:
        return {
            layer: direction(
                [states[layer] for states in above],
                [states[layer] for states in below],
                method=body.method,
                tokens=body.states,
            )
            for layer in layers
        }
    except ConfigError as exc:
        raise BadRequest(exc.message, param="positive") from exc


# registered before the next route, which would take `.gguf` as part of the id
@route(
    router, "GET", "/vectors/{id}.gguf", under=V1, answer=bytes,
    summary="Fetch a control vector as GGUF, as llama.cpp reads it",
)  # fmt: skip
async def fetch_vector(http: Request, _: Caller, id: str) -> Response:
    path = VECTORS.info(await library_of(http), id).path
    if path is None or not path.is_file():
        raise NotFound(f"The control vector {id[:64]!r} has no file.", param="id")
    return FileResponse(path, media_type="application/octet-stream", filename=f"{id}.gguf")


@route(router, "GET", "/vectors/{id}", under=V1, summary="Retrieve a control vector")
async def retrieve_vector(http: Request, _: Caller, id: str) -> wire.VectorObject:
    return VECTORS.written(await library_of(http), id)


@route(router, "DELETE", "/vectors/{id}", under=V1, summary="Forget a control vector; its file stays")
async def delete_vector(http: Request, _: Admin, store: Stored, id: str) -> wire.DeletedObject:
    return await VECTORS.delete(http, store, id)


@route(
    router, "POST", "/vectors/{id}/attach", under=V1, is_body_optional=True,
    summary="Make a control vector usable by requests, while others run",
)  # fmt: skip
async def attach_vector(
    http: Request, _: Admin, store: Stored, id: str, body: wire.AttachBody
) -> wire.VectorObject:
    return await VECTORS.attach(http, store, id, body.layer)


@route(
    router, "POST", "/vectors/{id}/detach", under=V1,
    summary="Stop new requests from using a control vector; running ones finish as they began",
)  # fmt: skip
async def detach_vector(http: Request, _: Admin, store: Stored, id: str) -> wire.VectorObject:
    return await VECTORS.detach(http, store, id)


def _check_free(library: ModelLibrary, body: wire.TrainBody) -> None:
    """Raise BadRequest if an SAE has this id, or a vector that is not to be overwritten."""
    if body.id in [info.id for info in library.saes()]:
        raise BadRequest.at("id", f"there is an SAE {body.id!r}: delete it, or take another id")
    if not body.overwrite and body.id in [info.id for info in library.vectors()]:
        raise BadRequest.at("id", f"there is {body.id!r} already: set overwrite, or delete it")
