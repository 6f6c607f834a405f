"""Who may use the admin API: administrators, by a key of `server.admin_keys`; where nobody needs a key,
callers on the same machine.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from headrace.api.authentication import authenticate
from headrace.callers import Principal
from headrace.config import ServerConfig, is_loopback
from headrace.errors import Forbidden

# Reverse proxies add these. Through one, every caller seems to be on this machine.
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


async def administrator(http: Request) -> Principal:
    """The caller, if it may administer this server. Raises Unauthorized, Forbidden."""
    caller = await authenticate(http)
    server: ServerConfig = http.app.state.config.server
    if not caller.is_admin and (server.needs_key or not is_local(http, server)):
        error = Forbidden(
            "this needs the key of an administrator"
            if server.admin_keys
            else "no administrator has a key here: set server.admin_keys"
        )
        error.code = "admin_key_required"
        raise error
    return caller


def is_local(http: HTTPConnection, server: ServerConfig) -> bool:
    """Whether the server listens on loopback only, and no proxy has forwarded the request."""
    is_forwarded = any(name in http.headers for name in FORWARDED)
    is_near = http.client is not None and is_loopback(http.client.host)
    return is_near and is_loopback(server.host) and not is_forwarded


Admin = Annotated[Principal, Depends(administrator)]
