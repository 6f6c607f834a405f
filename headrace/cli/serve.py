"""`headrace serve`: prepares the models, takes the port, runs the app and shuts it down in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from fastapi import FastAPI

from headrace import __version__, local, logs
from headrace.api.authentication import ParentKeys
from headrace.app import create_app
from headrace.assembly import build_backends, build_served
from headrace.cli.terminal import print_providers
from headrace.config import Config, ServerConfig
from headrace.errors import ConfigError
from headrace.free_memory import limit_free_memory
from headrace.models.model import GGUFModel
from headrace.models.references import DEFAULT_EMBEDDER
from headrace.pool import Entry
from headrace.server.connections import Checked, Connections, Limits, connections_within, raise_limit
from headrace.server.http import HTTPConnection
from headrace.server.tls import MAX_HANDSHAKES, Certificate, SecureServer
from headrace.server.websockets import WebSocketConnection

if TYPE_CHECKING:
    from headrace.encoder_types import Embedding
    from headrace.models.model import Model

log = logging.getLogger(__name__)

GARBAGE = 10_000  # new objects between two collections
LOOK_S = 0.05  # between two looks whether all connections are closed
CLOSE_S = 5  # how long connections may take to close after the last answer


def serve(config: Config, *, host_hint: str = "", reload: Callable[[], Config] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, then return the exit code. `host_hint`: the end of the error for a host
    that cannot be listened on; `reload`: reads the configuration again, for new workers. Raises ConfigError,
    ModelError.
    """
    logs.configure(config.server.log_level, config.server.log_format)
    _certificate(config.server)  # a mistake shows at once
    listener = _listen(config.server.host, config.server.port, host_hint)
    with contextlib.closing(listener):
        if config.server.workers > 1:
            from headrace.cli.workers import serve_workers

            serve_workers(config, listener, reload or (lambda: config))
            return 0
        _tune()
        models = fetched_models(config)
        app = create_app(config, build_served(config, models))
        _run_until_ended(app, config, listener, lambda: _announce(app, config, models, listener))
    return 0


def serve_as_child(
    config: Config,
    name: str,
    *,
    listener: socket.socket | None,
    is_engine: bool,
    ready: Callable[[str], object],
) -> None:
    """Serve as an engine process, or as a worker on a socket that others accept from, too. `ready` is called
    with the address. Raises ConfigError, ModelError.
    """
    logs.configure(config.server.log_level, config.server.log_format, process=name)
    _tune()
    if is_engine:  # only the parent calls it
        plain = {"tls_certificate": "", "tls_key": "", "trusted_proxies": ()}
        config = config.model_copy(update={"server": config.server.model_copy(update=plain)})
    listener = listener or _listen(config.server.host, config.server.port, "")
    with contextlib.closing(listener):
        models = fetched_models(config)
        app = create_app(config, (build_backends if is_engine else build_served)(config, models))
        if is_engine:
            logging.getLogger("headrace.access").setLevel(logging.WARNING)  # the parent logs requests
            app.state.keys = ParentKeys(config.server)
        host, port = listener.getsockname()[:2]
        _run_until_ended(app, config, listener, lambda: ready(f"http://{host}:{port}/v1"))


def _tune() -> None:
    limit_free_memory()
    sys.setswitchinterval(0.001)  # how long the engine's thread may hold the GIL


def _run_until_ended(
    app: FastAPI, config: Config, listener: socket.socket, announce: Callable[[], object]
) -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(app, config, listener, announce))


def fetched_models(config: Config) -> list[Model | GGUFModel]:
    """Fetch the configured models. Raises ConfigError, ModelError."""
    references = [reference for reference in (config.models.default, *config.models.more) if reference]
    embedder = config.models.embedding
    if embedder not in ("auto", "none", *references):
        references.append(embedder)
    if not references:
        return []
    from headrace.cli.models import fetch

    models = [fetch(reference, config) for reference in references]
    if embedder in references:
        model = models[references.index(embedder)]
        if isinstance(model, GGUFModel) or model.embedding is None:
            raise ConfigError(
                f"models.embedding = {embedder!r}: it generates text, and is no embedding model"
            )
    served = [model.name for model in models]
    for entry in config.models.backends:
        if entry.rpartition("=")[0] not in served:
            raise ConfigError(f"models.backends = {entry!r}: no such model is served ({', '.join(served)})")
    return models


async def _run(app: FastAPI, config: Config, listener: socket.socket, announce: Callable[[], object]) -> None:
    started = time.perf_counter()
    async with app.router.lifespan_context(app), AsyncExitStack() as exits:
        log.info("models loaded in %.1f s", time.perf_counter() - started)
        certificate = _certificate(config.server)
        if certificate is not None:
            await exits.enter_async_context(certificate.watched())
        server = _Server(app, config, certificate, announce, is_worker=config.server.workers > 1)
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn with a drain: after a signal new requests get 503, and running ones may finish. A second signal
    ends those too.
    """

    def __init__(
        self, app: FastAPI, config: Config, certificate: Certificate | None, announce: Any, *, is_worker: bool
    ) -> None:
        connections = Connections(_limits(config.server))
        super().__init__(
            uvicorn.Config(
                app, lifespan="off", log_config=None, access_log=False, server_header=False,
                proxy_headers=False,  # the app reads them, of `server.trusted_proxies` only
                http=cast("type[asyncio.Protocol]", partial(HTTPConnection, connections)),
                ws=cast("type[asyncio.Protocol]", partial(WebSocketConnection, connections)),
                ws_max_size=config.server.max_body_bytes, ws_per_message_deflate=False,
                timeout_graceful_shutdown=CLOSE_S,
                ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
            )
        )  # fmt: skip
        self._connections, self._certificate = connections, certificate
        self._gateway, self._drain_s, self._announce = (
            app.state.gateway,
            config.server.drain_seconds,
            announce,
        )
        self._draining: asyncio.Task[None] | None = None
        self._is_worker = is_worker

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        ours = cast("set[Checked]", self.server_state.connections)
        async with self._connections.watched(ours):
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            self.servers += [self._secured(listener, self._certificate) for listener in sockets or ()]
        # All objects so far live as long as the process, and requests leave few cycles: collect rarely, and
        # only among new objects.
        gc.freeze()
        gc.set_threshold(GARBAGE)
        self._announce()

    def _secured(self, listener: socket.socket, certificate: Certificate) -> Any:
        """A server in uvicorn's list that limits handshakes."""
        listener.listen(self.config.backlog)
        listener.setblocking(False)
        config, state, app_state = self.config, self.server_state, self.lifespan.state
        protocol = cast("Callable[..., asyncio.Protocol]", config.http_protocol_class)
        return SecureServer(listener, certificate.context, partial(protocol, config, state, app_state))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        if self._is_worker:
            loop.add_signal_handler(signal.SIGHUP, self._retire)
        yield

    def _retire(self) -> None:
        """Accept no more connections, answer requests on those that are open, and end when they are closed:
        another process accepts from the same socket.
        """
        if self._draining is None:
            log.info("SIGHUP: finishing what is connected, for at most %g s", self._drain_s)
            for server in self.servers:
                server.close()
            self._connections.retire(cast("set[Checked]", self.server_state.connections))
            self._draining = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        """Wait until all connections are closed, at most as long as a drain takes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                while self.server_state.connections:  # noqa: ASYNC110  # uvicorn has no event for it
                    await asyncio.sleep(LOOK_S)
        await self._drain(0)

    def _on_signal(self, number: int) -> None:
        if self._draining is None:
            log.info("%s: finishing what runs, for at most %g s", signal.Signals(number).name, self._drain_s)
            self._draining = asyncio.ensure_future(self._drain(self._drain_s))
        else:  # a second signal: end at once
            self._draining.cancel()
            self._draining = asyncio.ensure_future(self._drain(0))

    async def _drain(self, timeout_s: float) -> None:
        await self._gateway.drain(timeout_s)
        self.should_exit = True


def _limits(server: ServerConfig) -> Limits:
    fit = connections_within(raise_limit() - (MAX_HANDSHAKES if server.tls_certificate else 0))
    number = min(server.max_connections or fit, fit)
    return Limits(number, receive_s=server.receive_timeout_s, send_s=server.send_timeout_s)


def _certificate(server: ServerConfig) -> Certificate | None:
    """What is configured for HTTPS, if anything is. Raises ConfigError."""
    return Certificate(server) if server.tls_certificate else None


def _listen(host: str, port: int, host_hint: str) -> socket.socket:
    """Take the port before the models are loaded, so that a mistake shows at once. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {host} port {port}: {exc.strerror or exc}{host_hint}") from exc
    return listener


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


def _announce(app: FastAPI, config: Config, models: list[Model | GGUFModel], listener: socket.socket) -> None:
    url = config.server.url_at(*listener.getsockname()[:2])
    print(f"\nHeadrace {__version__}\n  url     {url}/v1  (documentation: {url}/docs)")
    for entry in app.state.pool.entries.values() if app.state.pool is not None else ():
        _announce_model(entry)
    for model in models:
        if config.engine.processes and local.generates(model):
            print(f"  model   {model.name} ({config.engine.processes} processes)")
        if app.state.pool is None and not isinstance(model, GGUFModel) and model.embedding is not None:
            embedding = model.embedding.limited(config.engine.max_model_len)
            _announce_encoder(model, embedding, embedding.max_tokens)
    print_providers(config)
    for name, route in config.routes.items():
        print(f"  route   {name} → {', '.join(target.target for target in route.targets)}")
    if config.models.embedding == "auto" and all(model.name != DEFAULT_EMBEDDER for model in models):
        print(f"  later   {DEFAULT_EMBEDDER} (for embeddings, loaded at its first use)")
    if models:
        print(f"  device  CPU ({platform.machine()}, {os.cpu_count()} cores)")
    key = " -H 'Authorization: Bearer KEY'" if config.server.needs_key else ""
    print(f"  try     {_example(url, key, models)}\n", flush=True)


def _announce_encoder(model: Model, embedding: Embedding, most: int | None, more: str = "") -> None:
    use = "embeddings" if embedding.score is None else "reranking"
    print(f"  model   {model.name} ({model.architecture}, for {use}, up to {most} tokens{more})")


def _announce_model(entry: Entry) -> None:
    assert entry.known is not None
    model, backend = entry.known.model, cast("Any", entry.backend)
    context = entry.known.info.max_model_len if backend is None else backend.models()[0].max_model_len
    if not isinstance(model, GGUFModel) and model.embedding is not None:
        _announce_encoder(model, model.embedding, context, "; a request loads it" if backend is None else "")
        return
    if backend is None:
        print(f"  model   {entry.id} (context {context}; a request loads it)")
        return
    if isinstance(model, GGUFModel):
        header = model.header
        kind = f"{header.architecture}, {header.quantization}, context {context}, by llama.cpp"
        print(f"  model   {model.name} ({kind})")
        return
    how = f", by {backend.models()[0].runner}" if model.is_checkpoint else ""
    print(f"  model   {model.name} ({model.architecture}, {model.quantization}, context {context}{how})")
    print(f"  cache   {_cache(backend.engine.runner)}")
    if backend.engine.disk is not None:
        print(f"  disk    {backend.settings.disk_cache_bytes / 2**20:.0f} MiB for cached prompts")


def _cache(runner: Any) -> str:
    """The size of the KV cache, and how many tokens it holds as it is and with other types of numbers."""
    size = runner.num_blocks * runner.block_bytes
    tokens = {
        name: size // block_bytes * runner.block_size
        for name, block_bytes in runner.block_bytes_by_type.items()
        if block_bytes != runner.block_bytes
    }
    others = ", ".join(f"{name}: {count}" for name, count in tokens.items())
    capacity = f"{size / 2**20:.0f} MiB for {runner.num_blocks * runner.block_size} tokens"
    return f"{capacity} ({others})" if others else capacity


def _example(url: str, key: str, models: list[Model | GGUFModel]) -> str:
    if not models:
        return f"curl {url}/v1/models{key}"
    question = {"role": "user", "content": "What color is the sky?"}
    body = json.dumps(
        {"model": models[0].name, "messages": [question], "max_tokens": 100, "stream": True},
        ensure_ascii=False,
    )
    body = body.replace("'", "\\u0027")  # it stands between single quotes
    return f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
