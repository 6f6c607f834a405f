"""The OpenAPI document: FastAPI's, with the bodies and chunks that handlers read and write by themselves."""

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
    """A reference to the schema of a model, which the document takes in."""

    def __init__(self, model: type[BaseModel]) -> None:
        super().__init__({"$ref": SCHEMAS + model.__name__})
        self.model = model


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose handler reads the body by itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": SchemaOf(model)}}}}


def stream_of(model: type[BaseModel], description: str) -> dict[str, Any]:
    """A response that is a text/event-stream of such objects."""
    return {"description": description, "content": {"text/event-stream": {"schema": SchemaOf(model)}}}


def document(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The whole document of an app that has these routers, made once."""
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
    """The models that routes refer to, some more than once."""
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
    """FastAPI documents its own answer to bad parameters; ours is a 400."""
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
