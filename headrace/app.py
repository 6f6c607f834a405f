"""Builds the application: backends, gateway, store, routes and middleware, and their lifetimes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from headrace import __version__, local
from headrace.api import errors, openapi, pages
from headrace.api.authentication import Keys, StoredKeys
from headrace.api.middleware import Middleware
from headrace.api.relay import Relay
from headrace.api.request import Budget
from headrace.api.routers import ROUTERS
from headrace.api.sites import Hosts, Sites, both_families
from headrace.assembly import described
from headrace.backend_types import Backend, Composed, Measured
from headrace.config import Config, install_command
from headrace.errors import ConfigError
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import LoggingMeter
from headrace.gateway.limits import Charging, Prices
from headrace.limits.memory import MemoryLimiter
from headrace.metering.metrics import Metrics
from headrace.metering.state import State
from headrace.metering.usage import UsageMeter
from headrace.models.catalog import Cache
from headrace.models.model import Progress
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
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=both_families(server.trusted_proxies))


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


def _pulls(pool: Pool, config: Config) -> Pulls:
    def fetch(reference: str, progress: Progress) -> Known:
        size = local.sizes(config, len(pool.entries))
        return described(local.fetched(reference, config, progress), config, size.kv_cache_bytes)

    return Pulls(pool, Cache(config.paths.cache), fetch, config.models.pull_allow)


def _substitutes(config: Config, backends: Sequence[Backend]) -> dict[str, str]:
    """OpenAI's names of embedding models → ours, which answers for them."""
    local = [backend for backend in backends if backend.name not in config.providers]
    ours = [info.id for backend in local for info in backend.models() if info.kind == "embedding"]
    return dict.fromkeys(OPENAI_EMBEDDERS, ours[0]) if ours and config.models.openai_embeddings else {}


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
