"""Errors as responses, in OpenAI's shape, Anthropic's or Ollama's: ours, the framework's (unknown path, wrong
method), and unexpected ones.
"""

from __future__ import annotations

import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from headrace import logs
from headrace.api.json_response import JSONResponse
from headrace.api.openapi import responses_of
from headrace.errors import BadRequest, MethodNotAllowed, NotFound, ServerError
from headrace.wire.errors import ErrorResponse, to_body, to_messages_body, to_ollama_body
from headrace.wire.parameters import message_of

MESSAGES = re.compile(r"(/[^/]+)?/v1/messages(/.*)?")  # paths of Anthropic's dialect
OLLAMA = re.compile(
    r"/api/(version|tags|ps|show|generate|chat|embed|embeddings|pull|push|delete|copy|create|blobs)(/.*)?"
)
MODELS = re.compile(r"(/[^/]+)?/v1/models(/.*)?")  # paths of both dialects

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")

RESPONSES = responses_of(
    ErrorResponse,
    {
        400: "The request is at fault: `param` names the member.",
        403: "A page of another site sent it, or `Host` is not a name of this server.",
        415: "The body is not application/json.",
        504: "It took longer than the request's timeout or the server's.",
    },
)


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServerError, _ours)
    app.add_exception_handler(HTTPException, _frameworks)
    app.add_exception_handler(RequestValidationError, _invalid)


def to_response(error: ServerError) -> JSONResponse:
    return JSONResponse(to_body(error), status_code=error.status, headers=error.headers)


def to_messages_response(error: ServerError) -> JSONResponse:
    """An error in Anthropic's shape."""
    body = to_messages_body(error, logs.REQUEST_ID.get())
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def is_ollama(scope: Scope) -> bool:
    """Whether a request is in Ollama's dialect."""
    return OLLAMA.fullmatch(scope["path"]) is not None


def is_anthropic(scope: Scope) -> bool:
    """Whether a request is in Anthropic's dialect: by its path, or, for models, by its header."""
    path = scope["path"]
    if MESSAGES.fullmatch(path):
        return True
    has_version = any(name == b"anthropic-version" for name, _ in scope["headers"])
    return has_version and MODELS.fullmatch(path) is not None


def refusal(error: ServerError, scope: Scope) -> JSONResponse:
    """An error in the shape of the request's dialect."""
    if is_ollama(scope):
        return JSONResponse(to_ollama_body(error), status_code=error.status, headers=error.headers)
    if not is_anthropic(scope):
        return to_response(error)
    response = to_messages_response(error)
    response.headers["request-id"] = logs.REQUEST_ID.get()
    return response


async def _ours(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ServerError)
    return refusal(exc, request.scope)


def _allowed(request: Request) -> list[str]:
    """The methods that a path allows. The framework only knows those of the first route with the path."""
    routes = request.app.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


async def _invalid(request: Request, exc: Exception) -> JSONResponse:
    """The answer to a part of a path, or a query, that is of another type."""
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    name = str(first["loc"][-1])
    return refusal(BadRequest.at(name, message_of(first["msg"])), request.scope)


async def _frameworks(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    return refusal(_error(exc, request), request.scope)


def _error(exc: HTTPException, request: Request) -> ServerError:
    where = f"{request.method} {request.url.path[:200]}"
    if exc.status_code == 404:
        return NotFound(f"there is nothing at {where}", param="path")
    if exc.status_code == 405:
        allowed = {"Allow": ", ".join(_allowed(request))}
        return MethodNotAllowed(f"{where} is not allowed", param="method", headers=allowed)
    error = ServerError(str(exc.detail))
    error.status = exc.status_code
    return error
