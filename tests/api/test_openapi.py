from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from headrace.api.openapi import Document, document
from headrace.api.routers import ROUTERS
from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.conftest import FakeServer

DOCUMENT: dict[str, Any] = document(create_app(Config(), [FakeBackend([])]), ROUTERS)
ROUTES = {
    "/v1/chat/completions": "post get",
    "/v1/chat/completions/{completion_id}": "get post delete",
    "/v1/chat/completions/{completion_id}/messages": "get",
    "/v1/completions": "post",
    "/v1/conversations": "post get",
    "/v1/conversations/{conversation_id}": "get post delete",
    "/v1/conversations/{conversation_id}/export": "get",
    "/v1/conversations/{conversation_id}/fork": "post",
    "/v1/conversations/{conversation_id}/items": "post get",
    "/v1/conversations/{conversation_id}/items/{item_id}": "get delete",
    "/v1/admin/replicas": "get",
    "/v1/admin/replicas/drain": "post",
    "/v1/admin/replicas/resume": "post",
    "/v1/saes": "get post",
    "/v1/saes/{id}": "get delete",
    "/v1/saes/{id}/attach": "post",
    "/v1/saes/{id}/detach": "post",
    "/v1/saes/{id}/features": "get",
    "/v1/saes/{id}/features/{feature}": "get",
    "/v1/saes/{id}/statistics": "get",
    "/v1/vectors": "get post",
    "/v1/vectors/train": "post",
    "/v1/vectors/{id}": "get delete",
    "/v1/vectors/{id}.gguf": "get",
    "/v1/vectors/{id}/attach": "post",
    "/v1/vectors/{id}/detach": "post",
    "/v1/steering/profiles": "get post",
    "/v1/steering/profiles/import": "post",
    "/v1/steering/profiles/{name}": "get put delete",
    "/v1/steering/profiles/{name}/export": "get",
    "/v1/steering/default": "get put delete",
    "/v1/steering/validate": "post",
    "/v1/steering/capabilities": "get",
    "/v1/activations": "post",
    "/v1/activations/stream": "get post",
    "/v1/activations/top": "post",
    "/v1/activations/compare": "post",
    "/v1/responses": "post",
    "/v1/responses/compact": "post",
    "/v1/responses/input_tokens": "post",
    "/v1/responses/{id}": "get delete",
    "/v1/responses/{id}/cancel": "post",
    "/v1/responses/{id}/input_items": "get",
    "/v1/messages": "post",
    "/v1/messages/count_tokens": "post",
    "/v1/embeddings": "post",
    "/v1/rerank": "post",
    "/v2/rerank": "post",
    "/rerank": "post",
    "/v1/tokenize": "post",
    "/tokenize": "post",
    "/v1/detokenize": "post",
    "/detokenize": "post",
    "/v1/tokenizer_info": "get",
    "/tokenizer_info": "get",
    "/v1/models": "get",
    "/v1/models/pull": "post",
    "/v1/models/load": "post",
    "/v1/models/unload": "post",
    "/v1/models/lock": "post",
    "/v1/models/lease": "post",
    "/v1/models/release": "post",
    "/v1/models/{model_id}/events": "get",
    "/v1/models/{model_id}/route": "get",
    "/v1/models/{model_id}": "get delete",
    "/api/chat": "post",
    "/api/generate": "post",
    "/api/embed": "post",
    "/api/embeddings": "post",
    "/api/version": "get",
    "/api/tags": "get",
    "/api/ps": "get",
    "/api/show": "post",
    "/api/pull": "post",
    "/api/delete": "delete",
    "/api/copy": "post",
    "/api/create": "post",
    "/health": "get",
    "/metrics": "get",
    "/v1/admin/keys": "post get",
    "/v1/admin/keys/{key_id}": "get post delete",
    "/v1/admin/keys/{key_id}/rotate": "post",
    "/v1/admin/logs": "get",
    "/v1/admin/requests": "get",
    "/v1/admin/requests/{request_id}": "delete",
    "/v1/usage": "get",
    "/healthz": "get",
    "/ping": "get",
    "/ready": "get",
}


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from references(item)


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step.replace("~1", "/")]
    return found


def test_building_it_leaves_the_event_loop_free() -> None:
    async def turns_while_it_is_built() -> int:
        app = create_app(Config(), [FakeBackend([])])
        answering = asyncio.create_task(Document(app, ROUTERS).answer(Request({"type": "http"})))
        turns = 0
        while not answering.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert json.loads(bytes(answering.result().body)) == DOCUMENT
        return turns

    assert asyncio.run(turns_while_it_is_built()) > 5


def test_every_route_is_documented() -> None:
    assert {path: set(entry) for path, entry in DOCUMENT["paths"].items()} == {
        path: set(methods.split()) for path, methods in ROUTES.items()
    }
    for operation in (operation for entry in DOCUMENT["paths"].values() for operation in entry.values()):
        assert operation["summary"]
        assert all(content["schema"] for content in operation["responses"]["200"]["content"].values())
        assert "422" not in operation["responses"]


def test_every_reference_resolves() -> None:
    found = set(references(DOCUMENT))
    assert {"#/components/schemas/ChatBody", "#/components/schemas/ChatCompletionChunk"} <= found
    assert all(resolve(reference) for reference in found)


def test_no_two_schemas_share_a_name() -> None:
    """Schemas of one name would be told apart by their modules."""
    assert not [name for name in DOCUMENT["components"]["schemas"] if name.startswith("headrace__")]


def test_errors_are_documented_in_openais_shape() -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        responses = DOCUMENT["paths"][path]["post"]["responses"]
        assert {"200", "400", "401", "403", "404", "413", "415", "500", "503", "504"} == set(responses)
        schema = resolve(responses["400"]["content"]["application/json"]["schema"]["$ref"])
        error = resolve(schema["properties"]["error"]["$ref"])
        assert set(error["required"]) == {"message", "type", "param", "code"}
        assert "text/event-stream" in responses["200"]["content"]
        assert DOCUMENT["paths"][path]["post"]["requestBody"]["required"] is True


def test_document_and_its_page_are_served(fake_server: FakeServer) -> None:
    server = fake_server()
    assert server.get("/openapi.json").json() == DOCUMENT
    page = server.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
