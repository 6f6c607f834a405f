"""Writes the head of an answer together with its body: a second write costs as much as the first, here and in
the client.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class JoinedWrites:
    """The transport that one answer is written to. The head of an answer of known length waits for the body,
    until the end of this turn of the event loop at most; streams are written as they come.
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
