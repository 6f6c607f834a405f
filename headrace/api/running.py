"""/v1/admin/requests: list the requests that run, without their content, and stop one. /v1/admin/logs: the
last lines of the log, which have no content either.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from typing_extensions import TypedDict

from headrace import logs
from headrace.api.authentication import Admin
from headrace.api.errors import RESPONSES
from headrace.api.routes import V1, route
from headrace.errors import BadRequest, NotFound
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import Running
from headrace.wire.limits import whole
from headrace.wire.pagination import ListObject, list_object

router = APIRouter(tags=["admin"], responses=RESPONSES)


class RunningRequest(TypedDict):
    id: Annotated[str, Field(description="The header X-Request-ID of its response, also in the log.")]
    object: Literal["request"]
    work: Annotated[str, Field(description="generate, embed, or the endpoint of a relayed request.")]
    model: str
    provider: str | None
    api_key_id: str | None
    api_key_name: str | None
    status: Annotated[
        Literal["waiting", "answering"], Field(description="Whether it has sent something of its answer.")
    ]
    seconds: Annotated[float, Field(description="Since it arrived.")]


class StoppedRequest(TypedDict):
    id: str
    object: Literal["request.stopped"]
    stopped: Literal[True]


class LogLine(TypedDict):
    id: Annotated[str, Field(description="A number that grows with each line, from the server's start.")]
    object: Literal["log.line"]
    time: Annotated[str, Field(description="UTC, as in RFC 3339.")]
    level: str
    logger: str
    request_id: str
    message: str


@route(router, "GET", "/admin/logs", under=V1, summary="List the last lines of the log, oldest first")
async def list_logs(_: Admin, after: str = "0") -> ListObject[LogLine]:
    """At most 500. `after`: the id of a line that is known."""
    number = whole(after, 18)
    if number is None:
        raise BadRequest.at("after", "the id of a line is a number")
    return list_object([_line(line) for line in logs.RECENT.after(number)], has_more=False)


def _line(line: logs.Line) -> LogLine:
    return {
        "id": str(line.id),
        "object": "log.line",
        "time": datetime.fromtimestamp(line.time, UTC).isoformat(timespec="milliseconds"),
        "level": line.level,
        "logger": line.logger,
        "request_id": line.request_id,
        "message": line.message,
    }


@route(router, "GET", "/admin/requests", under=V1, summary="List the requests that run, oldest first")
async def list_requests(http: Request, _: Admin) -> ListObject[RunningRequest]:
    gateway: Gateway = http.app.state.gateway
    running = gateway.active.requests.values()
    return list_object([entry for one in running if (entry := _entry(one)) is not None], has_more=False)


@route(router, "DELETE", "/admin/requests/{request_id}", under=V1, summary="Stop a request")
async def stop_request(http: Request, _: Admin, request_id: str) -> StoppedRequest:
    """Its caller gets the error `request_stopped`, 503."""
    gateway: Gateway = http.app.state.gateway
    if not gateway.active.stop(request_id):
        raise NotFound(f"No request with id '{request_id[:100]}' runs.", param="request_id")
    return {"id": request_id, "object": "request.stopped", "stopped": True}


def _entry(running: Running) -> RunningRequest | None:
    tally = running.tally
    if tally is None:
        return None
    return {
        "id": running.id,
        "object": "request",
        "work": tally.work,
        "model": tally.served or tally.model,
        "provider": tally.provider,
        "api_key_id": tally.owner,
        "api_key_name": tally.owner_name or None,
        "status": "waiting" if tally.began is None else "answering",
        "seconds": round(perf_counter() - tally.arrived, 3),
    }
