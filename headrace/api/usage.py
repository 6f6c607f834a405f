"""GET /v1/usage: what the caller's key has used; administrators see all keys."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from headrace.api.authentication import names
from headrace.api.errors import RESPONSES
from headrace.api.listing import query_of
from headrace.api.request import Caller, Stored
from headrace.api.routes import V1, route
from headrace.errors import Forbidden
from headrace.metering.usage import UsageMeter
from headrace.wire import usage as wire

router = APIRouter(tags=["admin"], responses=RESPONSES)
PARAMETERS = [
    {"name": "start_time", "in": "query", "schema": {"type": "integer"},
     "description": "Seconds since 1970. Default: 30 days before the end."},
    {"name": "end_time", "in": "query", "schema": {"type": "integer"}, "description": "Default: now."},
    {"name": "api_key_id", "in": "query", "schema": {"type": "string"},
     "description": "Of one key; of others only for administrators."},
]  # fmt: skip


@route(
    router, "GET", "/usage", under=V1, extra={"parameters": PARAMETERS},
    summary="Requests, tokens and costs of each key, model and day",
)  # fmt: skip
async def get_usage(http: Request, response: Response, caller: Caller, store: Stored) -> wire.UsagePage:
    span = wire.span(query_of(http, response, wire.KNOWN))
    key = span.key if caller.is_admin else caller.id
    if span.key not in (None, key):
        error = Forbidden("the usage of other keys is for administrators", param="api_key_id")
        error.code = "admin_key_required"
        raise error
    meter: UsageMeter | None = http.app.state.usage
    if meter is not None:
        await meter.flush()
    rows = await store.usage.rows(since=span.since, until=span.until, key=key)
    return wire.page(rows, names(http.app.state.config.server))
