"""Builds the application: backends, gateway, store, routes and middleware, and their lifetimes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pydantic import ByteSize
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from headrace import __version__, local
from headrace.api import errors, openapi, pages, proxies
from headrace.api.authentication import Keys, StoredKeys
from headrace.api.middleware import Middleware
from headrace.api.relay import Relay
from headrace.api.request import Budget
from headrace.api.routers import ROUTERS
from headrace.api.sites import Hosts, Sites
from headrace.backend_types import Backend
from headrace.config import Config, install_command
from headrace.config.kinds import load_kind
from headrace.encoder_types import Embedding
from headrace.errors import ConfigError
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import LoggingMeter
from headrace.gateway.limits import Charging, Prices
from headrace.limits.memory import MemoryLimiter
from headrace.measured import Composed, Measured
from headrace.metering.metrics import Metrics
from headrace.metering.state import State
from headrace.metering.usage import UsageMeter
from headrace.models.catalog import Cache, prepare
from headrace.models.model import GGUFModel, Model, Progress
from headrace.models.references import ALIASES, DEFAULT_EMBEDDER
from headrace.pool import Known, Pool
from headrace.pool.pulls import Pulls
from headrace.relay_types import Relaying
from headrace.store import Store
from headrace.turns.presets import Presets
from headrace.turns.responses import Responses
from headrace.turns.steering import Steering

if TYPE_CHECKING:
    from headrace.limits.redis import RedisLimiter
    from headrace.metering.traces import Traces

# answered by our embedding model, with fewer dimensions, where no provider has them
OPENAI_EMBEDDERS = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")
DESCRIPTION = "One OpenAI-compatible server for every model a person can reach."


def create_app(config: Config, backends: Sequence[Backend]) -> FastAPI:
    """Build the application. Nothing is opened yet: store and backends start and end with its lifespan."""
    app = FastAPI(
        title="Headrace",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        openapi_url=None,  # FastAPI would build the document on the event loop
        docs_url=None,  # FastAPI's pages load scripts from another host; ours do not
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # else looked up for each request
    )
    app.state.config = config
    store = app.state.store = Store(config.store, config.paths.data)
    prices = Prices(config.prices)
    app.state.usage = UsageMeter(store, prices) if config.server.needs_key else None
    app.state.limiter = _limiter(config, app.state.usage)
    local = {one.name for one in backends if isinstance(one, Measured | Composed)}
    app.state.metrics = Metrics(local, config.routes.keys())
    app.state.traces = _traces(config)
    meters = (app.state.metrics, app.state.usage, app.state.traces)
    app.state.gateway = Gateway(
        backends,
        meter=LoggingMeter([meter for meter in meters if meter is not None]),
        charging=None if app.state.limiter is None else Charging(app.state.limiter, prices),
        request_timeout_s=config.server.request_timeout_s,
        remote=config.providers.keys(),
        bare=[name for name, provider in config.providers.items() if not provider.prefix],
        routes=config.routes,
        substitutes=_substitutes(config, backends),
    )
    app.state.metrics.registry.register(State(app.state.gateway, store))
    app.state.stored_keys = StoredKeys(store)
    app.state.keys = Keys(config.server, app.state.stored_keys if config.server.takes_stored_keys else None)
    app.state.pool = next((backend for backend in backends if isinstance(backend, Pool)), None)
    app.state.pulls = None if app.state.pool is None else _pulls(app.state.pool, config)
    app.state.responses = Responses(app.state.gateway, app.state.store)
    app.state.steering = Steering(app.state.gateway, app.state.store)
    app.state.presets = Presets(app.state.gateway, app.state.store)
    for router in ROUTERS:
        app.include_router(router)
    app.router.routes.extend(pages.assets())
    errors.install(app)
    app.state.budget = Budget(int(config.server.max_inflight_bytes))
    _add_middleware(app, config)
    app.add_route("/openapi.json", openapi.Document(app, ROUTERS).answer, include_in_schema=False)
    return app


def _add_middleware(app: FastAPI, config: Config) -> None:
    """Add the middleware, the innermost first."""
    server = config.server
    if any(isinstance(backend, Relaying) for backend in app.state.gateway.backends):
        app.add_middleware(Relay)
    hosts = Hosts(server.host, server.allowed_hosts, server.needs_key)
    sites = Sites(hosts, server.cors_origins)
    app.add_middleware(
        Middleware, sites=sites, budget=app.state.budget, has_security=server.security_headers,
        has_facts=server.log_format == "json", has_limits=server.takes_stored_keys,
        has_traces=bool(config.telemetry.otlp_endpoint),
    )  # fmt: skip
    if server.trusted_proxies:
        app.add_middleware(
            ProxyHeadersMiddleware, trusted_hosts=proxies.both_families(server.trusted_proxies)
        )


def _traces(config: Config) -> Traces | None:
    """Sends traces, if it is configured where to. Raises ConfigError."""
    if not config.telemetry.otlp_endpoint:
        return None
    try:
        from headrace.metering.traces import Traces
    except ImportError as exc:
        raise ConfigError(f"telemetry.otlp_endpoint needs a package: {install_command('otel')}") from exc
    return Traces(config.telemetry.otlp_endpoint)


def _limiter(config: Config, usage: UsageMeter | None) -> MemoryLimiter | RedisLimiter | None:
    """Applies the limits of stored keys; None if no key is taken that may have any. Raises ConfigError."""
    if not config.server.takes_stored_keys or usage is None:
        return None
    if not config.limits.redis_url:
        return MemoryLimiter(usage.spent)
    try:
        from headrace.limits.redis import RedisLimiter
    except ImportError as exc:
        raise ConfigError(f"limits.redis_url needs a package: {install_command('redis')}") from exc
    return RedisLimiter(config.limits.redis_url, usage.spent, when_down=config.limits.when_down)


def build_backends(config: Config, models: Sequence[Model | GGUFModel]) -> list[Backend]:
    """Build the backends, local models first, without starting them. Raises ConfigError, ModelError."""
    formats = dict(entry.rsplit("=", 1) for entry in config.models.tool_formats)
    local = [_local(model, formats, config) for model in models]
    return [*local, *_later(models, config), *build_providers(config)]


def build_served(config: Config, models: Sequence[Model | GGUFModel]) -> list[Backend]:
    """Build the backends of a server that loads and unloads models while it runs. Those in the cache that
    generate text are served, too. Raises ConfigError, ModelError.
    """
    here = [model for model in models if not config.engine.processes or not local.generates(model)]
    elsewhere = [model for model in models if model not in here]
    pool = [build_pool(config, here)] if here and not elsewhere else []
    apart = [_local(model, {}, config) for model in here] if elsewhere else []
    return [*_processes(config, elsewhere), *pool, *apart, *_later(models, config), *build_providers(config)]


def _processes(config: Config, models: Sequence[Model | GGUFModel]) -> list[Backend]:
    """The backend of these models in processes of their own; none without models."""
    if not models:
        return []
    from headrace.processes import engine_processes

    return [engine_processes(config, models)]


def build_pool(config: Config, models: Sequence[Model | GGUFModel]) -> Pool:
    """Build the pool of local models. `models`: those that are served from the start; models in the cache are
    added. Raises ConfigError.
    """
    named = [model.name for model in models]
    cached = Cache(config.paths.cache).models() if config.models.cached else []
    more = [model for model in cached if model.name not in named and local.generates(model)]
    size = local.sizes(config, sum(map(local.generates, models)))
    known = [
        (local.reference_of(model), _known(model, config, size.kv_cache_bytes)) for model in (*models, *more)
    ]
    pairs = (entry.rpartition("=") for entry in config.models.idle_seconds)
    idle_s = {name: float(text) or inf for name, _, text in pairs}
    found = Pool(
        known,
        budget_bytes=size.budget_bytes,
        preload=() if config.models.preload == ("none",) else config.models.preload or named,
        pinned=frozenset(config.models.pin),
        idle_s=idle_s,
        default_idle_s=idle_s.get("", inf),
    )
    _check_names(config, found)
    return found


def _check_names(config: Config, pool: Pool) -> None:
    """Raises ConfigError for options of models that are not here."""
    models, here = config.models, ", ".join(pool.entries) or "none"
    idle = [entry.rpartition("=")[0] for entry in models.idle_seconds]
    preload = () if models.preload == ("none",) else models.preload
    for option, names in (("preload", preload), ("pin", models.pin), ("idle_seconds", filter(None, idle))):
        for name in names:
            if name not in pool.entries:
                raise ConfigError(f"models.{option}: there is no model {name!r} here; there are {here}")


def _known(model: Model | GGUFModel, config: Config, kv_cache_bytes: int) -> Known:
    def build(model: Model | GGUFModel, kv_cache_bytes: int) -> Backend:
        formats = dict(entry.rsplit("=", 1) for entry in config.models.tool_formats)
        engine = config.engine.model_copy(update={"kv_cache_bytes": ByteSize(kv_cache_bytes)})
        return _local(model, formats, config.model_copy(update={"engine": engine}))

    return local.known(model, config, kv_cache_bytes, build)


def _pulls(pool: Pool, config: Config) -> Pulls:
    def fetch(reference: str, progress: Progress) -> Known:
        size = local.sizes(config, len(pool.entries))
        return _known(local.fetched(reference, config, progress), config, size.kv_cache_bytes)

    return Pulls(pool, Cache(config.paths.cache), fetch, config.models.pull_allow)


def build_providers(config: Config) -> list[Backend]:
    """Build the backends of the configured providers. Fetches GGUF files of llama.cpp. Raises ConfigError,
    ModelError.
    """
    return [build_provider(name, config) for name in config.providers]


def build_provider(name: str, config: Config) -> Backend:
    """Build the backend of the provider of this name."""
    provider = config.providers[name]
    if provider.kind == "fake":
        from headrace.backends.fake import FakeBackend

        return FakeBackend(
            ["Hello", " world"], name=name, id=provider.models[0] if provider.models else "fake"
        )
    if provider.kind == "llamacpp":
        from headrace.models.catalog import locate

        assert provider.path is not None, "the configuration was checked"
        model = locate(provider.path, Cache(config.paths.cache))
        return _llama_cpp(name, model, config, timeout_s=provider.timeout_s)
    make = load_kind(provider.kind)
    if provider.python is not None:
        from headrace.backends.replicas import started

        return started(name, provider, make)
    if provider.replicas:
        from headrace.backends.replicas import replicated

        return replicated(name, provider, make)
    backend: Backend = make(name, provider, provider.api_key)
    return backend


def _local(model: Model | GGUFModel, tool_formats: Mapping[str, str], config: Config) -> Backend:
    if not isinstance(model, GGUFModel) and model.embedding is not None:
        return _embedder(model.name, model.embedding, lambda progress: model, config, is_eager=True)
    if isinstance(model, GGUFModel):
        if model.name in tool_formats:
            raise ConfigError(
                f"models.tool_formats: {model.name} is served by llama.cpp, which detects the format itself"
            )
        return _llama_cpp("headrace", model, config, timeout_s=config.server.request_timeout_s or 86_400)
    from headrace.backends.engine import EngineBackend, EngineSettings
    from headrace.engine.torch.options import TorchOptions

    engine = config.engine
    if engine.device.startswith("cuda") and not model.is_checkpoint:
        raise ConfigError(f"engine.device = {engine.device!r}: OpenVINO runs {model.name}, on the CPU")
    settings = EngineSettings(
        max_model_len=engine.max_model_len,
        kv_cache_bytes=int(engine.kv_cache_bytes),
        kv_cache_dtype=engine.kv_cache_dtype,
        max_num_seqs=engine.max_num_seqs,
        max_queue=engine.max_queue,
        max_batch_tokens=engine.max_batch_tokens,
        num_threads=engine.num_threads,
        exact=engine.precision == "f32",
        torch=TorchOptions(engine.device, engine.dtype, config.models.trust_remote_code),
        use_generation_config=engine.generation_config == "model",
        max_tokens_default=config.server.max_tokens_default,
        loop_tokens=engine.loop_tokens,
        deterministic=engine.deterministic,
        speculates=engine.speculation == "auto",
        max_tokenize_bytes=int(engine.max_tokenize_bytes),
        disk_cache=config.paths.cache / "prefixes",
        norms=config.paths.cache / "norms",
        disk_cache_bytes=int(engine.disk_cache_bytes),
        share_prefix_cache=engine.share_prefix_cache,
        steering_root=config.steering.folder(config.paths.data),
        steering_attach=config.steering.attach,
        max_dose=config.steering.max_dose or inf,
        stall_s=engine.stall_seconds,
    )
    return EngineBackend(model, settings, tool_formats.get(model.name))


def _later(models: Sequence[Model | GGUFModel], config: Config) -> list[Backend]:
    """The embedding model that is fetched at its first use, unless the configuration has another or none."""
    alias = ALIASES[DEFAULT_EMBEDDER]
    if config.models.embedding != "auto" or any(model.name == alias.name for model in models):
        return []
    assert alias.embedding is not None
    fetch = partial(prepare, alias.text, Cache(config.paths.cache))
    return [_embedder(alias.name, alias.embedding, fetch, config)]


def _embedder(
    name: str,
    embedding: Embedding,
    fetch: Callable[[Progress], Model],
    config: Config,
    *,
    is_eager: bool = False,
) -> Backend:
    from headrace.backends.embedder import CrossEncoderBackend, EmbedderBackend, EmbedderSettings
    from headrace.engine.torch.options import TorchOptions

    engine = config.engine
    settings = EmbedderSettings(
        max_requests=engine.max_num_seqs + engine.max_queue,
        num_threads=engine.num_threads,
        exact=engine.precision == "f32",
        deterministic=engine.deterministic,
        torch=TorchOptions(engine.device, engine.dtype, config.models.trust_remote_code),
    )
    backend = EmbedderBackend if embedding.score is None else CrossEncoderBackend
    return backend(name, embedding.limited(engine.max_model_len), fetch, settings, is_eager=is_eager)


def _substitutes(config: Config, backends: Sequence[Backend]) -> dict[str, str]:
    """OpenAI's names of embedding models → ours, which answers for them."""
    local = [backend for backend in backends if backend.name not in config.providers]
    ours = [info.id for backend in local for info in backend.models() if info.kind == "embedding"]
    return dict.fromkeys(OPENAI_EMBEDDERS, ours[0]) if ours and config.models.openai_embeddings else {}


def _llama_cpp(name: str, model: GGUFModel, config: Config, *, timeout_s: float) -> Backend:
    from headrace.backends.llamacpp import LlamaCppBackend, slots

    engine = config.engine
    num_slots, length = slots(
        model,
        max_model_len=engine.max_model_len,
        kv_cache_bytes=int(engine.kv_cache_bytes),
        max_num_seqs=engine.max_num_seqs,
    )
    return LlamaCppBackend(
        name,
        model.gguf,
        model=model.name,
        context_length=length,
        num_slots=num_slots,
        max_queue=engine.max_queue,
        num_threads=engine.num_threads,
        timeout_s=timeout_s,
        longest_token=model.header.longest_token,
        own_template=model.header.chat_template or "",
        max_tokens_default=config.server.max_tokens_default,
        max_tokenize_bytes=int(engine.max_tokenize_bytes),
        # llama.cpp cannot tell callers apart: with several keys it keeps no prompt for the next request.
        reuses_prompts=engine.share_prefix_cache
        or (len(config.server.api_keys) <= 1 and not config.server.takes_stored_keys),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as exits:
        exits.push_async_callback(app.state.store.aclose)
        await app.state.store.start()
        if app.state.traces is not None:
            exits.push_async_callback(asyncio.to_thread, app.state.traces.close)
        for part in (app.state.usage, app.state.limiter):
            if part is not None:
                exits.push_async_callback(part.aclose)
                await part.start()
        for backend in app.state.gateway.backends:
            exits.push_async_callback(backend.aclose)
            await backend.start()
        app.state.gateway.router.check()
        exits.push_async_callback(app.state.steering.aclose)
        await app.state.steering.start()
        if app.state.pool is not None:
            app.state.pool.residents.restore = app.state.steering.restore
        exits.push_async_callback(app.state.presets.aclose)
        await app.state.presets.start()
        exits.push_async_callback(app.state.responses.aclose)
        if app.state.pulls is not None:
            exits.callback(app.state.pulls.close)
        yield
