"""`headrace serve --workers N`: several gateway processes behind one port.

All of them accept from one socket, which this process has opened and passes on. A worker that ends by itself
is started again. On SIGHUP the configuration is read again and the workers are replaced one after the other:
the new one is ready before the old one stops accepting, and the old one ends when its connections have.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from headrace import __version__, logs
from headrace.children.child import Child, ours
from headrace.children.keeper import Keeper
from headrace.cli.terminal import print_providers
from headrace.config import Config
from headrace.errors import ConfigError, HeadraceError
from headrace.offload import cancel_and_wait

log = logging.getLogger(__name__)

BACKLOG = 2048  # connections that wait to be accepted
END_S = 10.0  # what a worker may take to end, beside `drain_seconds`


@dataclass(frozen=True, slots=True)
class Worker:
    """A gateway process that accepts connections."""

    child: Child


def serve_workers(config: Config, listener: socket.socket, reload: Callable[[], Config]) -> None:
    """Serve until SIGINT or SIGTERM. `reload`: reads the configuration again. Raises ConfigError."""
    check(config)
    logs.configure(config.server.log_level, config.server.log_format, process="workers")
    listener.listen(BACKLOG)
    asyncio.run(Workers(config, listener, reload).run())


def check(config: Config) -> None:
    """Raise ConfigError for options that need one process, since each worker would have its own state."""
    number = config.server.workers
    models = [name for name in (config.models.default, *config.models.more) if name]
    if models:
        raise ConfigError(
            f"server.workers = {number}: each worker would load {', '.join(models)} for itself. Serve "
            "models with a server of their own (`headrace serve --processes N --port 8001`), name it here as "
            "a provider, and set models.default = '' (docs/replicas.md)"
        )
    own = [
        name for name, provider in config.providers.items() if provider.kind == "llamacpp" or provider.python
    ]
    if own:
        raise ConfigError(
            f"server.workers = {number}: each worker would start the process of providers.{own[0]} for "
            "itself; start that server by itself, and name its address as base_url"
        )
    if config.server.takes_stored_keys and not config.limits.redis_url:
        raise ConfigError(
            f"server.workers = {number}: each worker would count the limits of keys for itself; set "
            "limits.redis_url"
        )


class Workers:
    """The processes, one in each of `server.workers` places."""

    def __init__(self, config: Config, listener: socket.socket, reload: Callable[[], Config]) -> None:
        self._config, self._listener, self._reload = config, listener, reload
        self._keepers: list[Keeper[Worker]] = []
        self._started, self._ending = asyncio.Event(), asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run the workers until the server ends. Raises ConfigError if they do not start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._replace_soon)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # blocked when the command began
        names = [f"worker-{index + 1}" for index in range(self._config.server.workers)]
        first = await self._first(names)
        stop_s = self._config.server.drain_seconds + END_S
        for name, worker in zip(names, first, strict=True):
            keeper = Keeper[Worker](
                name, partial(self._open, name), came=lambda _: None, left=lambda *_: None, stop_s=stop_s
            )
            keeper.start(worker)
            self._keepers.append(keeper)
        self._started.set()
        self._announce()
        await self._ending.wait()
        await cancel_and_wait(self._replacing)
        await asyncio.gather(*(keeper.aclose() for keeper in self._keepers))

    async def _first(self, names: list[str]) -> list[Worker]:
        """Start all workers. If one does not start, end the others and raise ConfigError."""
        opened = await asyncio.gather(*map(self._open, names), return_exceptions=True)
        workers = [worker for worker in opened if isinstance(worker, Worker)]
        failed = next((error for error in opened if isinstance(error, BaseException)), None)
        if failed is None:
            return workers
        await asyncio.gather(*(worker.child.kill() for worker in workers))
        raise ConfigError(str(failed)) from failed

    async def _open(self, name: str) -> Worker:
        """Start a worker and wait until it accepts. Raises ChildFailed."""
        descriptor = self._listener.fileno()
        message = {
            "role": "worker",
            "name": name,
            "config": self._config.model_dump(mode="json"),
            "listener": descriptor,
        }
        child = await Child.open(ours(name, "headrace.cli.child", json.dumps(message), (descriptor,)))
        try:
            await child.report()
        except BaseException:
            await child.kill()
            raise
        return Worker(child)

    def _end(self) -> None:
        """Drain the workers; a second signal ends them at once."""
        if self._ending.is_set():
            for keeper in self._keepers:
                if keeper.running is not None:
                    keeper.running.child.signal(signal.SIGTERM)
        self._ending.set()

    def _replace_soon(self) -> None:
        if self._ending.is_set():
            return
        if self._replacing is not None and not self._replacing.done():
            log.warning("SIGHUP: the workers are being replaced already")
            return
        self._replacing = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        """Replace the workers, once all have started, one after the other, with the configuration as it is
        then.
        """
        await self._started.wait()
        try:
            config = self._reload()
            check(config)
            if config.server.workers != self._config.server.workers:
                log.warning("server.workers takes effect at the next start")
            self._config = config
            for keeper in self._keepers:
                log.info("SIGHUP: %s is replaced", keeper.name)
                await keeper.replace(signal.SIGHUP)
        except HeadraceError as exc:
            log.error("SIGHUP: the workers go on as they are: %s", exc.message)
        else:
            log.info("SIGHUP: all workers are replaced")

    def _announce(self) -> None:
        url = self._config.server.url_at(*self._listener.getsockname()[:2])
        print(f"\nHeadrace {__version__}\n  url     {url}/v1  (documentation: {url}/docs)")
        print(f"  workers {len(self._keepers)}")
        print_providers(self._config)
        key = " -H 'Authorization: Bearer KEY'" if self._config.server.needs_key else ""
        print(f"  try     curl {url}/v1/models{key}\n", flush=True)
