"""HTTPS: the certificate, read again when its files change, and the server that accepts connections over TLS.
A handshake has a time limit, and only so many are under way at once: until one is done its connection counts
nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from headrace.config import ServerConfig
from headrace.errors import ConfigError
from headrace.offload import background
from headrace.small_files import read_small

log = logging.getLogger(__name__)

LOOK_S = 5.0  # between two looks at the files
NO_PASSWORD = "it has a password, which Headrace does not ask for: write the key without one"

HANDSHAKE_S = 10.0
MAX_HANDSHAKES = 256
PAUSE_S = 1.0  # after an error of `accept`, such as no descriptor left


class Certificate:
    """`context`: what connections are made with; handshakes after a change use the new certificate. Raises
    ConfigError if the files do not hold a certificate and its key.
    """

    def __init__(self, server: ServerConfig) -> None:
        self._files = Path(server.tls_certificate), Path(server.tls_key or server.tls_certificate)
        self._state = self._look()
        self.context = self._context()

    def refresh(self) -> None:
        """Read the files if they have changed. If they cannot be read, the last certificate stays in use."""
        state = self._look()
        if state == self._state:
            return
        self._state = state
        try:
            self._context()  # files that do not fit each other must not reach the context in use
            self._load(self.context)
        except ConfigError as exc:
            log.error("the certificate has changed and cannot be used; the last one stays: %s", exc.message)
        else:
            log.info("the certificate has changed: new connections use it")

    def watched(self) -> AbstractAsyncContextManager[None]:
        """Look at the files every LOOK_S while the body runs."""
        return background(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.refresh)

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What tells whether the files have changed; None: there is no such file."""
        stamps: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                status = file.stat()
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                stamps.append(None)
        return stamps

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        for name, file in (("tls_certificate", certificate), ("tls_key", key)):
            try:
                read_small(file)
            except OSError as exc:
                raise ConfigError(f"server.{name} = {str(file)!r} cannot be read: {exc.strerror}") from exc
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError) as exc:
            raise ConfigError(
                f"server.tls_certificate = {str(certificate)!r}, server.tls_key = {str(key)!r}: {_why(exc)}"
            ) from exc


def _no_password() -> str:
    """OpenSSL would ask for it in the terminal."""
    raise ValueError(NO_PASSWORD)


def _why(exc: Exception) -> str:
    reason = getattr(exc, "reason", None) or str(exc)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    if isinstance(exc, ssl.SSLError):
        return f"these are not a certificate and its key in PEM ({reason})"
    return str(exc)


class SecureServer:
    """Stands for an asyncio.Server. `listener` listens already, and does not block; `accept` is started once.
    `create`: makes the protocol of a connection.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        create: Callable[[], asyncio.Protocol],
        *,
        handshake_s: float = HANDSHAKE_S,
        max_handshakes: int = MAX_HANDSHAKES,
    ) -> None:
        self._listener, self._context, self._create = listener, context, create
        self._handshake_s, self._max_handshakes = handshake_s, max_handshakes
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}  # the oldest first
        self._accepting = asyncio.create_task(self._accept())

    @property
    def sockets(self) -> Sequence[socket.socket]:
        return [self._listener]

    def close(self) -> None:
        """Accept no more connections. Handshakes that are under way may end."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as exc:
                log.warning("no connection can be accepted: %s", exc.strerror)
                await asyncio.sleep(PAUSE_S)
                continue
            if len(self._handshakes) >= self._max_handshakes:
                self._give_up()
            task = asyncio.create_task(self._shake_hands(connection))
            self._handshakes[task] = connection
            task.add_done_callback(self._ended)

    def _give_up(self) -> None:
        """End the handshake that has taken longest."""
        oldest = next(iter(self._handshakes))
        connection = self._handshakes.pop(oldest)
        oldest.cancel()
        oldest.add_done_callback(lambda _: connection.close())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        with contextlib.suppress(OSError, ssl.SSLError):  # of the client: it sent no TLS, or too slowly
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                self._create, connection, ssl=self._context, ssl_handshake_timeout=self._handshake_s
            )
