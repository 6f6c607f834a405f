"""The operator's flow, top to bottom: backends, gateway, routes, and their lifetimes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from headrace import __version__
from headrace.api import (
    chat,
    completions,
    conversations,
    embeddings,
    errors,
    health,
    messages,
    models,
    responses,
    stored,
    tokens,
    websocket,
)
from headrace.api.request_id import RequestId
from headrace.config import Config, ProviderConfig
from headrace.errors import ConfigError
from headrace.gateway.auth import Keys
from headrace.gateway.gateway import Gateway
from headrace.store import Store
from headrace.turns.responses import Responses
from headrace.types import Backend
from headrace.wire.anthropic.request import CountTokensBody, MessagesBody
from headrace.wire.chat import ChatBody, ChatCompletionChunk
from headrace.wire.completions import CompletionBody
from headrace.wire.conversations import ConversationBody, ItemsBody
from headrace.wire.embeddings import EmbeddingsBody
from headrace.wire.metadata import MetadataBody
from headrace.wire.responses.body import CompactBody, InputTokensBody, ResponseBody
from headrace.wire.responses.schemas import ResponseEvent
from headrace.wire.tokens import DetokenizeBody, TokenizeBody

if TYPE_CHECKING:  # what only local models need is loaded when there are some
    from headrace.models.catalog import Model

DESCRIPTION = "One OpenAI-compatible server for every model a person can reach."

# kind of provider → module and class, called with (name, config, key)
REMOTE = {
    "openai": ("headrace.backends.openai", "OpenAIBackend"),
    "cerebras": ("headrace.backends.cerebras", "CerebrasBackend"),
    "anthropic": ("headrace.backends.anthropic", "AnthropicBackend"),
    "ollama": ("headrace.backends.ollama", "OllamaBackend"),
}

# what handlers read and write by themselves, so that FastAPI does not see it
UNSEEN = (
    ChatBody,
    ChatCompletionChunk,
    CompactBody,
    CompletionBody,
    ConversationBody,
    CountTokensBody,
    DetokenizeBody,
    EmbeddingsBody,
    InputTokensBody,
    ItemsBody,
    MessagesBody,
    MetadataBody,
    ResponseBody,
    ResponseEvent,
    TokenizeBody,
)


def create_app(config: Config, backends: Sequence[Backend]) -> FastAPI:
    """Builds everything, opens nothing: store and backends live as long as the app's lifespan."""
    app = FastAPI(
        title="Headrace",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.config = config
    app.state.keys = Keys(config.server.api_keys)
    app.state.gateway = Gateway(
        backends,
        request_timeout_s=config.server.request_timeout_s,
        remote=config.providers.keys(),
        bare=[name for name, provider in config.providers.items() if not provider.prefix],
        routes=config.routes,
    )
    app.state.store = Store(config.store, config.paths.data)
    app.state.responses = Responses(app.state.gateway, app.state.store)
    for resource in (
        chat, stored, completions, responses, websocket, messages, conversations, embeddings, tokens, models,
        health,
    ):  # fmt: skip
        app.include_router(resource.router)
    errors.install(app)
    app.add_middleware(RequestId)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def build_backends(config: Config, models: Sequence[Model]) -> list[Backend]:
    """Local models first, then providers. Opens nothing. Raises ConfigError."""
    return [*_engines(config, models), *build_providers(config)]


def build_providers(config: Config) -> list[Backend]:
    """Raises ConfigError."""
    return [_provider(name, provider) for name, provider in config.providers.items()]


def _provider(name: str, config: ProviderConfig) -> Backend:
    if config.kind == "fake":
        from headrace.backends.fake import FakeBackend

        return FakeBackend(["Hello", " world"], name=name, id=config.models[0] if config.models else "fake")
    if config.kind not in REMOTE:
        raise ConfigError(f"providers.{name}.kind = {config.kind!r}: there is no such provider yet")
    module, kind = REMOTE[config.kind]
    backend: Backend = getattr(import_module(module), kind)(name, config, config.api_key)
    return backend


def _engines(config: Config, models: Sequence[Model]) -> list[Backend]:
    if not models:
        return []
    from headrace.backends.engine import EngineBackend, EngineSettings

    engine = config.engine
    settings = EngineSettings(
        max_model_len=engine.max_model_len,
        kv_cache_bytes=int(engine.kv_cache_bytes),
        max_num_seqs=engine.max_num_seqs,
        max_queue=engine.max_queue,
        max_batch_tokens=engine.max_batch_tokens,
        num_threads=engine.num_threads,
        exact=engine.precision == "f32",
        use_generation_config=engine.generation_config == "model",
    )
    formats = dict(entry.rsplit("=", 1) for entry in config.models.tool_formats)
    return [EngineBackend(model, settings, formats.get(model.name)) for model in models]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as exits:
        exits.push_async_callback(app.state.store.aclose)
        await app.state.store.start()
        for backend in app.state.gateway.backends:
            exits.push_async_callback(backend.aclose)
            await backend.start()
        app.state.gateway.check_routes()
        exits.push_async_callback(app.state.responses.aclose)
        yield


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the bodies and chunks that handlers read and write by themselves."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = schema["components"]["schemas"]
        for kind in UNSEEN:
            described = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            components.update(described.pop("$defs", {}))
            components[kind.__name__] = described
        _drop_422(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _drop_422(schema: dict[str, Any]) -> None:
    """FastAPI documents its own answer to bad parameters; ours is a 400."""
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
