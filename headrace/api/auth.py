"""The dependency that asks for a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from headrace.gateway.auth import Keys, Principal


async def authenticate(request: HTTPConnection) -> Principal:
    """A key in x-api-key is as good as one in Authorization. Raises Unauthorized."""
    keys: Keys = request.app.state.keys
    key = request.headers.get("x-api-key")
    return keys.authenticate(request.headers.get("authorization") if key is None else f"Bearer {key}")


Caller = Annotated[Principal, Depends(authenticate)]
