"""The dependency that asks for a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from headrace.gateway.auth import Keys, Principal

CALLER = "headrace.caller"  # where a request's scope has its principal, once the key is checked


async def authenticate(request: HTTPConnection) -> Principal:
    """The owner of the request's key, in Authorization or in x-api-key. Raises Unauthorized."""
    if CALLER not in request.scope:
        keys: Keys = request.app.state.keys
        key = request.headers.get("x-api-key")
        header = request.headers.get("authorization") if key is None else f"Bearer {key}"
        request.scope[CALLER] = keys.authenticate(header)
    principal: Principal = request.scope[CALLER]
    return principal


Caller = Annotated[Principal, Depends(authenticate)]
