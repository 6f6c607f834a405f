"""Ollama's lists of models (GET /api/tags, /api/ps, POST /api/show), and its changes of them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from functools import partial

from fastapi import APIRouter, Request, Response

from headrace import __version__
from headrace.api.answers import LiveStream
from headrace.api.authentication import Admin
from headrace.api.json_response import JSONResponse
from headrace.api.ollama import API, RESPONSES, LinesWriter, known
from headrace.api.pool import OwnPool, OwnPulls, the_pulls
from headrace.api.request import Caller, is_strict, prepared
from headrace.api.routes import route
from headrace.callers import Principal
from headrace.errors import ModelUnavailable, NotFound
from headrace.features import unsupported
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import Until
from headrace.gateway.routing import check_model
from headrace.pool import Entry, Pool
from headrace.turns.presets import Presets
from headrace.types import ModelCard, ModelInfo
from headrace.wire.generation import dump
from headrace.wire.ollama import models as wire
from headrace.wire.ollama.models import CopyBody, CreateBody, checked_name, shown_created
from headrace.wire.ollama.tables import uses_of_create
from headrace.wire.parameters import with_named

# Programs refuse to talk to old versions: VS Code's Copilot wants 0.6.4, since which /api/show has
# capabilities. This is the version whose documentation the dialect follows.
VERSION = "0.18.3"
router = APIRouter(tags=["ollama"], responses=RESPONSES)


@router.head("/api/version", include_in_schema=False)
@route(router, "GET", "/version", under=API, summary="The version of Ollama's API")
async def version() -> wire.Version:
    return {"version": VERSION, "headrace": __version__}


@router.head("/api/tags", include_in_schema=False)
@route(router, "GET", "/tags", under=API, summary="List models, in Ollama's dialect")
async def list_tags(http: Request, caller: Caller) -> wire.Tags:
    return wire.tags(_cards(http.app.state.gateway, caller))


@route(router, "GET", "/ps", under=API, summary="List the models in memory")
async def list_running(http: Request, caller: Caller) -> wire.RunningModels:
    gateway: Gateway = http.app.state.gateway
    pool: Pool | None = http.app.state.pool
    if pool is not None:
        resident = [one for one in pool.entries.values() if one.is_resident and caller.may_use(one.id)]
        return {"models": [_running(pool, entry) for entry in resident]}
    local = {info.id for info in gateway.router.local_models()}
    cards = _cards(gateway, caller)
    return {"models": [wire.running(info, card) for info, card in cards if info.id in local]}


def _running(pool: Pool, entry: Entry) -> wire.Running:
    info = pool.find(entry.id)
    assert info is not None
    left_s = entry.expires_at - pool.now()
    return wire.running(
        info,
        pool.card(entry.id),
        memory_bytes=entry.memory_bytes,
        expires_in_s=None if math.isinf(left_s) else max(0.0, left_s),
    )


@route(router, "POST", "/show", under=API, summary="Describe a model, in Ollama's dialect")
async def show(http: Request, caller: Caller, body: wire.ShowBody) -> wire.Shown:
    gateway: Gateway = http.app.state.gateway
    id = known(gateway, body.id)
    check_model(caller, id, None)
    shown = wire.shown(gateway.router.model(id), gateway.router.card(id))
    preset = _presets(http).all.get(id)
    return shown if preset is None else shown_created(shown, preset.body)


@route(router, "POST", "/pull", under=API, summary="Fetch a model", answer=wire.Status)
async def pull(http: Request, _: Admin, pulls: OwnPulls, pool: OwnPool, body: wire.PullBody) -> Response:
    entry = pulls.start(body.id)
    if body.stream is not False:
        return LiveStream(_progress(pool, entry), {}, writer=PullWriter)
    async with Until(receive=http.receive):
        await pulls.finished(entry)
    if entry.state == "failed":
        raise _not_pulled(entry)
    return JSONResponse({"status": "success"})


class PullWriter(LinesWriter):
    keep_alive_frame = b'{"status":"waiting"}\n'


async def _progress(pool: Pool, entry: Entry) -> AsyncIterator[list[str]]:
    """One line for each report, the last of which says that the model is here. Raises ModelUnavailable."""
    last: wire.Status = {"status": "pulling manifest"}
    yield [dump(last)]
    while entry.pulling is not None:
        progress = entry.progress
        now: wire.Status = {"status": progress.label or "pulling"}
        if progress.total:
            # a digest tells Ollama's clients that the amounts are of one file, for one progress bar
            now |= {"digest": progress.label, "total": progress.total, "completed": progress.done}
        if now != last:
            last = now
            yield [dump(now)]
        await pool.changes.next(1.0)
    if entry.state == "failed":
        raise _not_pulled(entry)
    yield [dump({"status": "success"})]


def _not_pulled(entry: Entry) -> ModelUnavailable:
    return ModelUnavailable(f"{entry.id} cannot be pulled: {entry.error}")


@route(router, "DELETE", "/delete", under=API, summary="Delete a model")
async def delete(http: Request, _: Admin, body: wire.NameBody) -> wire.Success:
    """A created model goes, and not what it is made of."""
    presets, name = _presets(http), body.id.removesuffix(wire.LATEST)
    if name in presets.all:
        await presets.delete(name)
    else:
        await (await the_pulls(http)).delete(known(http.app.state.gateway, body.id))
    return {"status": "success"}


@route(router, "POST", "/copy", under=API, summary="Give a model a second name")
async def copy(http: Request, _: Admin, body: CopyBody) -> wire.Success:
    source = known(http.app.state.gateway, body.source)
    name = checked_name(body.destination, "destination")
    presets = _presets(http)
    await presets.create(presets.checked(CreateBody.model_validate({"model": name, "from": source})))
    return {"status": "success"}


@route(
    router, "POST", "/create", under=API,
    summary="Make a model of another, with a system message and parameters", answer=wire.Status,
)  # fmt: skip
async def create(http: Request, _: Admin, body: CreateBody) -> Response:
    gateway: Gateway = http.app.state.gateway
    uses = await prepared(http, partial(uses_of_create, body, strict=is_strict(http)))
    refused = [use for use in uses.members if use.feature is None and use.loss == "refused"]
    if refused:  # files and the like explain why there is no `from`
        raise unsupported(refused[0].path, refused[0].note)
    body = body.model_copy(update={"from_": known(gateway, body.base)})
    headers = with_named({}, gateway.left_out(uses, body.base))
    presets = _presets(http)
    await presets.create(await prepared(http, partial(presets.checked, body)))
    if body.stream is False:
        return JSONResponse({"status": "success"}, headers=headers)
    steps = ("reading model metadata", "writing manifest", "success")
    lines = "".join(f"{dump({'status': step})}\n" for step in steps)
    return Response(lines, media_type=LinesWriter.media_type, headers=headers)


def _presets(http: Request) -> Presets:
    presets: Presets = http.app.state.presets
    return presets


@router.post("/api/push", include_in_schema=False)
@router.post("/api/blobs/{digest}", include_in_schema=False)
@router.head("/api/blobs/{digest}", include_in_schema=False)
async def upload(_: Caller) -> Response:
    raise NotFound("nothing is uploaded here, to registries or from files", param="path")


def _cards(gateway: Gateway, caller: Principal) -> Iterator[tuple[ModelInfo, ModelCard]]:
    """The models that the caller may use."""
    for info in gateway.router.models():
        if not caller.may_use(info.id):
            continue
        try:
            yield info, gateway.router.card(info.id)
        except NotFound:  # a route without a target that is served now
            yield info, ModelCard(frozenset())
