"""Pages for browsers: a home page at `/`, and the API's documentation. Scripts and styles come from this
server, and a content security policy keeps the pages from loading anything else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shlex

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from headrace import __version__
from headrace.api.json_response import JSONResponse
from headrace.gateway.gateway import Gateway

ASSETS = "/docs/assets"
LINKS = {  # name → path and description
    "documentation": ("/docs", "the API, to try in this browser"),
    "reference": ("/redoc", "the API, to read"),
    "openapi": ("/openapi.json", "the same, for programs"),
    "models": ("/v1/models", "the models that are served"),
    "health": ("/health", "whether this server lives"),
}
OPEN = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});'
STYLE = (
    "body { max-width: 46em; margin: 3em auto; padding: 0 1em; font-family: system-ui, sans-serif; "
    "line-height: 1.5; color-scheme: light dark } "
    "pre { padding: 1em; overflow: auto; border: 1px solid } li { margin: .3em 0 }"
)
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
"""

router = APIRouter()


def assets() -> Mount:
    """The files of Swagger UI and Redoc, from a package whose code is not imported."""
    return Mount(ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]))


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def home(http: Request) -> Response:
    """A page for browsers, the same links for clients that want JSON, and the text that Ollama's clients look
    for to all others.
    """
    accept = http.headers.get("accept", "")
    if "text/html" not in accept and "json" not in accept:
        return PlainTextResponse("Ollama is running", headers={"Vary": "Accept"})
    if "text/html" not in accept:
        links = {name: path for name, (path, _) in LINKS.items()}
        body = {"name": "headrace", "version": __version__, "links": links}
        return JSONResponse(body, headers={"Vary": "Accept"})
    return _page(_home(http), style=_hash(STYLE))


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


def _home(http: Request) -> str:
    links = "".join(f'<li><a href="{path[1:]}">{path}</a>: {text}</li>\n' for path, text in LINKS.values())
    return f"""{HEAD}<title>Headrace</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Headrace {__version__}</h1>
<p>An OpenAI-compatible server. Clients take <code>{html.escape(_url(http))}/v1</code> as their base URL.</p>
<pre>{html.escape(_example(http))}</pre>
<ul>
{links}</ul>
</body>
</html>
"""


def _url(http: Request) -> str:
    return f"{http.url.scheme}://{http.headers.get('host', 'localhost')}"


def _example(http: Request) -> str:
    """A curl command to paste. On a server with keys it names no model, because the page needs no key."""
    gateway: Gateway = http.app.state.gateway
    has_keys = http.app.state.config.server.needs_key
    models = [] if has_keys else gateway.router.models()
    model = models[0].id if models else "MODEL"
    body = {"model": model, "messages": [{"role": "user", "content": "What color is the sky?"}]}
    key = "\n  -H 'Authorization: Bearer KEY' \\" if has_keys else ""
    sent = shlex.quote(json.dumps({**body, "max_tokens": 100, "stream": True}))
    return (
        f"curl -N {_url(http)}/v1/chat/completions \\{key}\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {sent}"
    )
