"""Pages for browsers: the chat at `/`, whose files are in headrace/page, and the API's documentation. Scripts
and styles come from this server, and a content security policy keeps the pages from loading anything else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from headrace import __version__
from headrace.api.json_response import JSONResponse
from headrace.config import ServerConfig

ASSETS = "/docs/assets"
PAGE = Path(__file__).parents[1] / "page"
LINKS = {  # name → path and description
    "documentation": ("/docs", "the API, to try in this browser"),
    "reference": ("/redoc", "the API, to read"),
    "openapi": ("/openapi.json", "the same, for programs"),
    "models": ("/v1/models", "the models that are served"),
    "health": ("/health", "whether this server lives"),
    "metrics": ("/metrics", "what it does, for Prometheus"),
    "logs": ("/v1/admin/logs", "the last lines of its log, for administrators"),
}

OPEN = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});'
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
"""

router = APIRouter()


def assets() -> list[Mount]:
    """The files of the chat, and those of Swagger UI and Redoc, from a package whose code is not imported."""
    documentation = StaticFiles(packages=[("fastapi_offline", "static")])
    return [Mount("/page", StaticFiles(directory=PAGE)), Mount(ASSETS, documentation)]


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def home(http: Request) -> Response:
    """The chat for browsers (unless `server.page` is off), what is here for clients that want JSON, and the
    text that Ollama's clients look for to all others.
    """
    accept = http.headers.get("accept", "")
    if "text/html" not in accept and "json" not in accept:
        return PlainTextResponse("Ollama is running", headers={"Vary": "Accept"})
    is_wanted: bool = http.app.state.config.server.page
    if not is_wanted or "text/html" not in accept:
        links = {name: path for name, (path, _) in LINKS.items()}
        links |= _of_keys(http.app.state.config.server)
        body = {"name": "headrace", "version": __version__, "links": links}
        return JSONResponse(body, headers={"Vary": "Accept"})
    text, import_map = _chat()
    return _page(text, script=f"'self' {_hash(import_map)}", style="'self'")


@router.head("/docs", include_in_schema=False)
@router.get("/docs", include_in_schema=False)
async def documentation() -> Response:
    text = f"""{HEAD}<title>Headrace: the API, to try</title>
<link rel="stylesheet" href="{ASSETS[1:]}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> says the same.</noscript>
<script src="{ASSETS[1:]}/swagger-ui-bundle.js"></script>
<script>{OPEN}</script>
</body>
</html>
"""
    return _page(text, script=f"'self' {_hash(OPEN)}", style="'self' 'unsafe-inline'")


@router.head("/redoc", include_in_schema=False)
@router.get("/redoc", include_in_schema=False)
async def reference() -> Response:
    text = f"""{HEAD}<title>Headrace: the API, to read</title>
</head>
<body style="margin: 0">
<redoc spec-url="openapi.json"></redoc>
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> says the same.</noscript>
<script src="{ASSETS[1:]}/redoc.standalone.js"></script>
</body>
</html>
"""
    return _page(text, script="'self'", style="'unsafe-inline'")


def _of_keys(server: ServerConfig) -> dict[str, str]:
    """The additional pages of a server with keys."""
    usage = {"usage": "/v1/usage"} if server.needs_key else {}
    return usage | ({"keys": "/v1/admin/keys"} if server.takes_stored_keys else {})


def _page(text: str, *, style: str, script: str = "'none'") -> HTMLResponse:
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src 'self' data:; font-src data:; "
        "connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Vary": "Accept"})


def _hash(text: str) -> str:
    """The source expression of a content security policy for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _chat() -> tuple[str, str]:
    """The chat's document, and the import map in it, which a policy allows by its hash. All modules are named
    in it, so that a browser fetches them together and not one after the other.
    """
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    match = re.search(r'<script type="importmap">(.*?)</script>', text)
    assert match is not None, "the page has an import map"
    modules = sorted(file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*js") if file.name != "app.js")
    names = (name for name in modules if not name.endswith(".min.js"))
    links = "".join(f'<link rel="modulepreload" href="page/{name}">\n' for name in names)
    return text.replace("</head>", f"{links}</head>"), match[1]
