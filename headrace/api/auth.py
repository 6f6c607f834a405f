"""The dependency that asks for a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from headrace.gateway.auth import Keys, Principal


async def authenticate(request: Request) -> Principal:
    keys: Keys = request.app.state.keys
    return keys.authenticate(request.headers.get("authorization"))


Caller = Annotated[Principal, Depends(authenticate)]
