"""The OpenAPI document: FastAPI's, completed by the bodies and chunks that handlers read and write
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel

SCHEMAS = "#/components/schemas/"
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class SchemaOf(dict[str, str]):
    """A reference to the schema of a model; `document` adds the schema."""

    def __init__(self, model: type[BaseModel]) -> None:
        super().__init__({"$ref": SCHEMAS + model.__name__})
        self.model = model


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route whose handler reads the body itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": SchemaOf(model)}}}}


def stream_of(model: type[BaseModel], description: str) -> dict[str, Any]:
    """The description of a response that is a text/event-stream of these objects."""
    return {"description": description, "content": {"text/event-stream": {"schema": SchemaOf(model)}}}


def document(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The document of an app that has these routers, built once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = schema["components"]["schemas"]
        for model in models_of(routers):
            described = model.model_json_schema(ref_template=SCHEMAS + "{model}")
            components.update(described.pop("$defs", {}))
            components[model.__name__] = described
        _drop_422(schema)
        schema["components"]["securitySchemes"] = KEYS
        schema["security"] = [{}, *({name: []} for name in KEYS)]  # {}: servers without keys need none
        app.openapi_schema = schema
    return app.openapi_schema


def models_of(routers: Sequence[APIRouter]) -> Iterator[type[BaseModel]]:
    """The models that the routes refer to, with repetitions."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield from _referred([route.openapi_extra, route.responses])


def _referred(value: object) -> Iterator[type[BaseModel]]:
    if isinstance(value, SchemaOf):
        yield value.model
    elif isinstance(value, dict):
        yield from _referred(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _referred(item)


def _drop_422(schema: dict[str, Any]) -> None:
    """Remove FastAPI's own answer to invalid parameters: ours is a 400."""
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
