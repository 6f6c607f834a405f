"""Detects clients that do not read their answers."""

from __future__ import annotations

import asyncio
import struct


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
