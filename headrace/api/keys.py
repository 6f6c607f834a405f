"""/v1/admin/keys: administrators create, list, change, rotate and revoke API keys."""

from __future__ import annotations

from fastapi import APIRouter, Request

from headrace.api.authentication import Admin
from headrace.api.errors import RESPONSES
from headrace.api.listing import NewestFirst, described
from headrace.api.request import Stored
from headrace.api.routes import V1, route
from headrace.errors import BadRequest
from headrace.store import StoredKey
from headrace.wire import keys as wire
from headrace.wire.pagination import ListObject

router = APIRouter(tags=["admin"], responses=RESPONSES)
KEY = "/admin/keys/{key_id}"


@route(router, "POST", "/admin/keys", under=V1, summary="Create an API key, which is shown once")
async def create_key(_: Admin, store: Stored, body: wire.KeyBody) -> wire.NewKeyObject:
    if body.name is None:
        raise BadRequest("name is missing", param="name")
    return wire.new_key(*await store.keys.create(wire.changed(StoredKey("", "", "", "", 0), body)))


@route(
    router, "GET", "/admin/keys", under=V1, extra=described("desc"),
    summary="List API keys, newest first, revoked ones included",
)  # fmt: skip
async def list_keys(_: Admin, store: Stored, query: NewestFirst) -> ListObject[wire.KeyObject]:
    return wire.keys(await store.keys.page(**query))


@route(router, "GET", KEY, under=V1, summary="Retrieve an API key, without its secret")
async def retrieve_key(_: Admin, store: Stored, key_id: str) -> wire.KeyObject:
    return wire.key(await store.keys.get(key_id))


@route(router, "POST", KEY, under=V1, summary="Change an API key's settings")
async def update_key(
    http: Request, _: Admin, store: Stored, key_id: str, body: wire.KeyBody
) -> wire.KeyObject:
    changed = await store.keys.update(wire.changed(await store.keys.get(key_id), body))
    _forget(http)
    return wire.key(changed)


@route(router, "POST", KEY + "/rotate", under=V1, summary="Replace an API key's secret")
async def rotate_key(http: Request, _: Admin, store: Stored, key_id: str) -> wire.NewKeyObject:
    rotated = await store.keys.rotate(key_id)
    _forget(http)
    return wire.new_key(*rotated)


@route(router, "DELETE", KEY, under=V1, summary="Revoke an API key, for good")
async def revoke_key(http: Request, _: Admin, store: Stored, key_id: str) -> wire.KeyObject:
    revoked = await store.keys.revoke(key_id)
    _forget(http)
    return wire.key(revoked)


def _forget(http: Request) -> None:
    """Let the change count at once, in this process; in others it does within seconds."""
    http.app.state.stored_keys.forget()
