"""Noticing that a client does not read its answer."""

from __future__ import annotations

import asyncio
import struct


class Unread:
    """What is written to one connection and waits to be read. `limit_s`: how long it may make no progress."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None
        self._size = 0

    def grows(self, now: float) -> None:
        """More is waiting than should, or the connection is to be closed once all has been read."""
        if self._since is None:
            self._since, self._size = now, 0

    def is_read(self) -> None:
        """Nearly nothing is waiting any more."""
        self._since = None

    def is_stuck(self, transport: asyncio.Transport, now: float) -> bool:
        """To be asked now and then: whether nothing was read for too long."""
        if self._since is None:
            return False
        size = transport.get_write_buffer_size() + _sent(transport)
        if size < self._size:
            self._since = now
        self._size = size
        return now - self._since > self._limit_s


def _sent(transport: asyncio.Transport) -> int:
    """Bytes that the system has taken and the client has not, where the system tells that (Linux)."""
    try:
        import fcntl
        import termios

        told = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (ImportError, OSError):
        return 0
    return int(struct.unpack("i", told)[0])
