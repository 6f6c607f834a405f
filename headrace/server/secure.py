"""Accepts connections over TLS. A handshake has a time limit, and only so many are under way at once: until
one is done its connection counts nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
MAX_HANDSHAKES = 256
PAUSE_S = 1.0  # after an error of `accept`, such as no descriptor left


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
