"""How answers are written: the head together with the body, HTTP/1.0 without chunks; and the detection of
clients that do not read.
"""

from __future__ import annotations

import asyncio
import struct

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class JoinedWrites:
    """The transport that one answer is written to. The head of an answer of known length waits for the body,
    until the end of this turn of the event loop at most: a second write costs as much as the first, here and
    in the client. Streams are written as they come.
    """

    __slots__ = ("_cycle", "_head", "_loop", "_transport")

    def __init__(
        self, transport: asyncio.Transport, cycle: RequestResponseCycle, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport, self._cycle, self._loop = transport, cycle, loop
        self._head: bytes | None = None  # None: not written; b"": on its way

    def write(self, data: bytes) -> None:
        cycle = self._cycle
        if self._head is None and cycle.response_started:
            self._head = b""
            if cycle.chunked_encoding is False and cycle.expected_content_length:
                self._head = data
                self._loop.call_soon(self.flush)
                return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self._transport.is_closing():
                self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def unframed(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """The app for HTTP/1.0, which has no chunks: a body of unknown length ends with the connection. `cycle`:
    the writer of its response.
    """

    async def respond(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        has_length = True

        async def send_unframed(message: ASGISendEvent) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                cycle.chunked_encoding = None if has_length else False
            elif message["type"] == "http.response.body" and not has_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unframed)

    return respond


class Unread:
    """The bytes that are written to one connection and not yet read. `limit_s`: the longest time without
    progress.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None
        self._size = 0

    def grows(self, now: float) -> None:
        """Start watching: the write buffer is full, or the connection closes when it is empty."""
        if self._since is None:
            self._since, self._size = now, 0

    def is_read(self) -> None:
        """Stop watching: the write buffer is nearly empty."""
        self._since = None

    def is_stuck(self, transport: asyncio.Transport, now: float) -> bool:
        """Whether the client has read nothing for too long. Called every second."""
        if self._since is None:
            return False
        size = transport.get_write_buffer_size() + _sent(transport)
        if size < self._size:
            self._since = now
        self._size = size
        return now - self._since > self._limit_s


def _sent(transport: asyncio.Transport) -> int:
    """The bytes in the socket's send buffer, on systems that report them (Linux); else 0."""
    try:
        import fcntl
        import termios

        size = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (ImportError, OSError):
        return 0
    return int(struct.unpack("i", size)[0])
