"""Request bodies: their media type, size and JSON are checked, and they become validated models. Work on
large bodies runs off the event loop, and is abandoned when the caller leaves or its time is over.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.types import Receive

from headrace.api.deadline import READ_AT, TIMEOUT, in_time
from headrace.api.encodings import decoded
from headrace.api.memory import CHARGE, CONTAINER, FACTOR, Charge
from headrace.errors import ClientGone, Overloaded, PayloadTooLarge, ServerError, UnsupportedMedia
from headrace.offload import SMALL, aside
from headrace.wire.limits import shown
from headrace.wire.validation import parse
from headrace.wire.volume import checked_volume

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")

# A refused body of up to this many times the limit is read to its end: some clients read no response before
# they have sent their whole request.
DRAINED = 4
SIZE = "headrace.body_size"  # the key of the body's size in a request's scope, once it is read
BODY = "headrace.body"  # the key of the body itself, if the relay has read it before the handler


def json_body(kind: type[Body], *, is_optional: bool = False) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates the body. With `is_optional`, an empty body means {}."""

    async def read(request: Request) -> Body:
        raw = await read_json(request)
        body = await prepared(request, partial(parse, kind, b"{}" if is_optional and not raw else raw))
        request.scope[TIMEOUT] = getattr(body, "timeout", None)
        return body

    return read


async def read_json(request: Request) -> bytes:
    """The body, decompressed. Raises UnsupportedMedia, PayloadTooLarge, ClientGone, Overloaded, and
    BadRequest if the compression is broken, or the body has more values than any body may have.
    """
    _check_media_type(request.headers.get("content-type"), is_from_page="origin" in request.headers)
    if BODY in request.scope:
        body: bytes = request.scope.pop(BODY)
        return body
    charge: Charge = request.scope[CHARGE]
    limit = request.app.state.config.server.max_body_bytes
    raw = await _read(request.receive, limit, charge)
    request.scope[READ_AT] = asyncio.get_running_loop().time()
    encodings = ",".join(request.headers.getlist("content-encoding"))
    if encodings:
        num_packed = len(raw)
        async with in_time(request):
            raw = await decoded(raw, encodings, limit)
        charge.take(FACTOR * max(0, len(raw) - num_packed))
    request.scope[SIZE] = len(raw)
    if len(raw) > SMALL:
        volume = await prepared(request, partial(checked_volume, raw))
        charge.take(CONTAINER * volume.containers)
    return raw


async def prepared(request: Request, work: Callable[[], T]) -> T:
    """Run work on the body, off the event loop if the body is large. Raises ClientGone, TimedOut."""
    size: int = request.scope[SIZE]
    if size <= SMALL:
        return work()
    async with in_time(request):
        return await aside(size, work)


def _check_media_type(header: str | None, *, is_from_page: bool) -> None:
    """Raises UnsupportedMedia for anything but JSON. Browsers let every page send bodies without a type, or
    as text; before JSON from another site, they ask the server.
    """
    if not header and is_from_page:
        raise UnsupportedMedia("Content-Type is missing; it must be application/json", param="Content-Type")
    media_type = (header or "application/json").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/json|[\w.!#$&^-]+/[\w.!#$&^-]+\+json", media_type, re.ASCII):
        raise UnsupportedMedia(
            f"Content-Type is {shown(media_type)}; it must be application/json", param="Content-Type"
        )


async def _read(receive: Receive, limit: int, charge: Charge) -> bytes:
    """Read the body, and charge it. A refused body is read to its end (see DRAINED) before the error is
    raised.
    """
    chunks: list[bytes] = []
    size, has_more = 0, True
    refusal: ServerError | None = None
    while has_more and size <= DRAINED * limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed the connection while it sent its request")
        chunk, has_more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if refusal is None:
            try:
                if size > limit:
                    raise PayloadTooLarge(f"the body is larger than {limit} bytes", param="body")
                charge.take(FACTOR * len(chunk))
                chunks.append(chunk)
            except (PayloadTooLarge, Overloaded) as exc:
                refusal = exc
                chunks.clear()
    if refusal is not None:
        refusal.headers = {**refusal.headers, "Connection": "close"}
        raise refusal
    return b"".join(chunks)
