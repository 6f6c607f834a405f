"""The request body as a validated model: size, media type and JSON are checked here, with OpenAI's error
shape.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.types import Receive

from headrace.api.encodings import decoded
from headrace.errors import ClientGone, PayloadTooLarge, UnsupportedMedia
from headrace.wire.validation import parse

Body = TypeVar("Body", bound=BaseModel)

DRAINED = (
    4  # a body up to this many times the limit is read to its end, so that the client gets to read the answer
)


def json_body(kind: type[Body], *, is_optional: bool = False) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates the body. With `is_optional`, none is as good as {}."""

    async def read(request: Request) -> Body:
        raw = await read_json(request)
        return parse(kind, b"{}" if is_optional and not raw else raw)

    return read


async def read_json(request: Request) -> bytes:
    """The body, unpacked if it came compressed. Raises UnsupportedMedia, PayloadTooLarge, ClientGone, and
    BadRequest where it is not encoded as it says.
    """
    _check_media_type(request.headers.get("content-type"), is_from_page="origin" in request.headers)
    limit = request.app.state.config.server.max_body_bytes
    raw = await _read(request.receive, limit)
    encodings = ",".join(request.headers.getlist("content-encoding"))
    return await decoded(raw, encodings, limit) if encodings else raw


def _check_media_type(header: str | None, *, is_from_page: bool) -> None:
    """Browsers let any page send a body without a type, or as text; one of JSON they ask about first."""
    if not header and is_from_page:
        raise UnsupportedMedia("Content-Type is missing; it must be application/json", param="Content-Type")
    media_type = (header or "application/json").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/json|[\w.!#$&^-]+/[\w.!#$&^-]+\+json", media_type, re.ASCII):
        raise UnsupportedMedia(
            f"Content-Type is {media_type[:100]!r}; it must be application/json", param="Content-Type"
        )


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size, has_more = 0, True
    while has_more and size <= DRAINED * limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed the connection while it sent its request")
        chunk, has_more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
    if size > limit:
        raise PayloadTooLarge(
            f"the body is larger than {limit} bytes", param="body", headers={"Connection": "close"}
        )
    return b"".join(chunks)
