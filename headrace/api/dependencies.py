"""Values that handlers take from an HTTP request and its app: the caller, the gateway and the provider, the
store, and whether the request is strict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from headrace.gateway.auth import Keys, Principal
from headrace.gateway.gateway import Gateway
from headrace.store import Store

CALLER = "headrace.caller"  # the key of the principal in a request's scope, once the API key is checked


async def authenticate(request: HTTPConnection) -> Principal:
    """The owner of the API key in `Authorization` or `x-api-key`. Raises Unauthorized."""
    if CALLER not in request.scope:
        keys: Keys = request.app.state.keys
        key = request.headers.get("x-api-key")
        header = request.headers.get("authorization") if key is None else f"Bearer {key}"
        request.scope[CALLER] = keys.authenticate(header)
    principal: Principal = request.scope[CALLER]
    return principal


async def _store(http: Request) -> Store:
    store: Store = http.app.state.store
    return store


Caller = Annotated[Principal, Depends(authenticate)]
Stored = Annotated[Store, Depends(_store)]


def destination(http: Request) -> tuple[Gateway, str | None]:
    """The gateway, and the provider that the path names (`/{provider}/v1/…`), or None."""
    return http.app.state.gateway, http.path_params.get("provider")


def headers_of(http: Request, names: Iterable[str]) -> dict[str, str]:
    """The request headers with these names. Several lines of one header are one list (RFC 9110, 5.3)."""
    return {name: ", ".join(dict.fromkeys(lines)) for name in names if (lines := http.headers.getlist(name))}


def is_strict(http: Request) -> bool:
    """Whether unknown members are refused: by the header X-Headrace-Strict, else by the configuration."""
    header = http.headers.get("x-headrace-strict")
    if header is None:
        return bool(http.app.state.config.server.strict)
    return header.strip().lower() in ("true", "1")
