"""Headers for browsers: which pages may read the answers (CORS), and how browsers may use an answer."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

METHODS = ("GET", "HEAD", "POST", "DELETE")
EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    "x-correlation-id",
    "x-conversation-id",
    "x-headrace-attempts",
    "x-headrace-backend",
    "x-headrace-ignored",
    "x-headrace-persisted",
    "x-should-retry",
    "openai-processing-ms",
    "retry-after",
    "server-timing",
)
SECURITY = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app with CORS headers that let pages of these origins read its answers. With "*", every page may,
    but without cookies.
    """
    if not origins:
        return app
    is_named = "*" not in origins
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=["*"],
        allow_credentials=is_named,
        allow_private_network=is_named,
        expose_headers=EXPOSED_HEADERS,
    )
