"""The OpenAPI document. It is made here and not by FastAPI, because handlers read bodies and write answers
themselves: no answer is ever validated.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from headrace.wire.anthropic.request import CountTokensBody, MessagesBody
from headrace.wire.anthropic.tables import MESSAGES
from headrace.wire.chat import ChatBody
from headrace.wire.completions import CompletionBody
from headrace.wire.embeddings import EmbeddingsBody
from headrace.wire.ollama.request import EmbedBody, OllamaChatBody, OllamaEmbeddingsBody, OllamaGenerateBody
from headrace.wire.ollama.tables import TABLES as OLLAMA
from headrace.wire.parameters import Table
from headrace.wire.responses.body import CompactBody, InputTokensBody, ResponseBody
from headrace.wire.responses.tables import COMPACTED, PROMPT, RESPONSES
from headrace.wire.tables import CHAT, COMPLETIONS, EMBEDDINGS

JSON, EVENT_STREAM = "application/json", "text/event-stream"
SCHEMAS = "#/components/schemas/"
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
TABLES_OF_BODIES: dict[type[BaseModel], Table] = {
    ChatBody: CHAT,
    CompletionBody: COMPLETIONS,
    EmbeddingsBody: EMBEDDINGS,
    ResponseBody: RESPONSES,
    InputTokensBody: PROMPT,
    CompactBody: COMPACTED,
    MessagesBody: MESSAGES,
    CountTokensBody: MESSAGES,
    OllamaChatBody: OLLAMA["chat"],
    OllamaGenerateBody: OLLAMA["generate"],
    EmbedBody: OLLAMA["embed"],
    OllamaEmbeddingsBody: OLLAMA["embeddings"],
}
ERRORS = {
    400: "The request is at fault.",
    401: "No key, or a wrong one.",
    404: "No such model.",
    413: "The body is too large.",
    500: "The server failed.",
    503: "No place now: try again after `Retry-After` seconds.",
}
Responses = dict[int | str, dict[str, Any]]  # FastAPI's descriptions of responses, by status


class SchemaOf(dict[str, Any]):
    """The place of a type's schema, which `document` fills in."""

    def __init__(self, type: Any) -> None:
        super().__init__()
        self.type = type


def content_of(type: object, media_type: str = JSON) -> dict[str, Any]:
    """The member `content` of a body or a response that is of this type; in an EVENT_STREAM each event is."""
    return {"content": {media_type: {"schema": SchemaOf(type)}}}


def response_of(type: object, description: str, media_type: str = JSON) -> dict[str, Any]:
    return {"description": description, **content_of(type, media_type)}


def responses_of(type: object, more: Mapping[int, str] | None = None) -> Responses:
    """The errors of a dialect, whose JSON is of this type. `more`: descriptions of further statuses."""
    return {status: response_of(type, text) for status, text in {**ERRORS, **(more or {})}.items()}


class Document:
    """Answers requests for the document of an app with these routers. The first one builds it, which takes
    a second, off the event loop.
    """

    def __init__(self, app: FastAPI, routers: Sequence[APIRouter]) -> None:
        self._app, self._routers = app, routers
        self._lock = threading.Lock()
        self._content: bytes | None = None

    async def answer(self, _: Request) -> Response:
        return Response(self._content or await asyncio.to_thread(self._built), media_type=JSON)

    def _built(self) -> bytes:
        with self._lock:
            if self._content is None:
                self._content = json.dumps(document(self._app, self._routers), ensure_ascii=False).encode()
            return self._content


def document(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The document of an app that has these routers, built once."""
    if app.openapi_schema is None:
        schemas = _schemas(routers)  # first, because it fills the places in the routes
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's invalid parameters: ours are a 400
        schema["components"] = {"schemas": schemas, "securitySchemes": KEYS}
        schema["security"] = [{}, *({name: []} for name in KEYS)]  # {}: servers without keys need none
        app.openapi_schema = schema
    return app.openapi_schema


def _schemas(routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The schemas of all types that the routes refer to. The references are filled in."""
    places = list(_places(routers))
    inputs: list[tuple[int, Literal["validation"], TypeAdapter[Any]]] = [
        (index, "validation", TypeAdapter(place.type)) for index, place in enumerate(places)
    ]
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template=SCHEMAS + "{model}")
    for (index, _), schema in found.items():
        places[index].update(schema)
    schemas: dict[str, Any] = definitions["$defs"]
    for model, table in TABLES_OF_BODIES.items():
        _describe(schemas[model.__name__]["properties"], table)
    return schemas


def _describe(members: dict[str, dict[str, Any]], table: Table) -> None:
    """Add the table's notes to members without a description."""
    for name, member in members.items():
        if name in table and table[name].note:
            member.setdefault("description", table[name].note)


def _places(routers: Sequence[APIRouter]) -> Iterator[SchemaOf]:
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield from _places_in([route.openapi_extra, route.responses])


def _places_in(value: object) -> Iterator[SchemaOf]:
    if isinstance(value, SchemaOf):
        yield value
    elif isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _places_in(member)
