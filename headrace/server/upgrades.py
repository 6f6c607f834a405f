"""Requests to upgrade to another protocol than WebSocket, as Java's HTTP client sends (`Upgrade: h2c`). They
are served as HTTP/1.1. The parser stops at their bodies, so a second parser reads on.
"""

from __future__ import annotations

from typing import Protocol

import httptools

FRAMING = (b"content-length", b"transfer-encoding")  # the headers that define where a body ends


class Callbacks(Protocol):
    """The callbacks of httptools' parser."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class AfterHead:
    """Passes callbacks on to `to`, except those of the first head, which has been read already."""

    def __init__(self, to: Callbacks) -> None:
        self._to = to
        self._is_past = False
        self.on_body, self.on_message_complete = to.on_body, to.on_message_complete

    def on_message_begin(self) -> None:
        if self._is_past:
            self._to.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._is_past:
            self._to.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_past:
            self._to.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_past:
            self._to.on_headers_complete()
        self._is_past = True


def parser_of_body(to: Callbacks) -> httptools.HttpRequestParser:
    """A parser that reads `framing`, then the body, then further requests."""
    return httptools.HttpRequestParser(AfterHead(to))


def framing(headers: list[tuple[bytes, bytes]]) -> bytes:
    """A head with nothing but the headers that define where the body ends."""
    lines = [b"%s: %s\r\n" % field for field in headers if field[0] in FRAMING]
    return b"".join([b"POST / HTTP/1.1\r\n", *lines, b"\r\n"])
