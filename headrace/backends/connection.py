"""Opens the connections to a provider, and decides what becomes of an answer whose HTTP is broken, and of a
request that fails because a pooled connection has gone stale: a provider may close an idle connection at any
time, and the client notices only after the next request.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.helpers import _EXC_SENTINEL
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from headrace.config import is_loopback

CONNECT_S = 5.0
MAX_HEADERS = 1000  # of an answer
MAX_FIELD = 2**16  # bytes of one header of an answer; some proxies set long cookies and policies
MAX_INTERIM = 1000  # responses (1xx) before an answer
SWITCHING = 101  # no interim response, although its status is 1xx
HEAD_END = b"\r\n\r\n"


class StaleConnection(aiohttp.ClientConnectionError):
    """A reused connection closed before the first byte of the answer."""


class Protocol(ResponseHandler):
    """A connection without the faults of aiohttp's: a body that cannot be parsed leaves its reader waiting; a
    head, or a whole answer, is lost if broken bytes arrive together with it; what follows an answer is taken
    for the answer to the next request; after an interim response no time limit runs. And without two costs of
    every piece that arrives: a new timer, and parsing nothing after it was read.
    """

    has_answered = False  # whether this connection has carried an answer
    _is_answered = False  # whether the head of the answer to the present request has arrived
    _before = b""  # the bytes before the next ones, in which the end of a head may begin
    _num_interim = 0
    _arrived = 0.0  # when the last piece did, on the event loop's clock

    def set_response_params(self, **parameters: Any) -> None:
        """Begin the next request."""
        self._is_answered, self._before, self._num_interim = False, b"", 0
        super().set_response_params(**parameters)

    def data_received(self, data: bytes) -> None:
        if not self._is_answered:
            data = self._heads_received(data)
            if not data or self.exception() is not None:
                return
        if data and self._is_answered and (self._payload is None or self._payload.is_eof()):
            self._close()
        else:
            super().data_received(data)

    def _heads_received(self, data: bytes) -> bytes:
        """Parse each head at the beginning of `data` by itself, and return the rest."""
        while not self._is_answered and self.exception() is None:
            end = (self._before + data).find(HEAD_END) + len(HEAD_END) - len(self._before)
            if end < len(HEAD_END) - len(self._before):
                break
            super().data_received(data[:end])
            data, self._before = data[end:], b""
            if not self._is_answered and self.exception() is None:
                self.start_timeout()
        self._before = (self._before + data)[1 - len(HEAD_END) :]
        return data

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called for each piece that is read; only a connection that was paused has bytes left to parse."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _reschedule_timeout(self) -> None:
        """Called for each piece that arrives: one timer runs, and looks for the last of them when it ends."""
        self._arrived = self._loop.time()
        if self._read_timeout_handle is None:
            super()._reschedule_timeout()

    def _on_read_timeout(self) -> None:
        left_s = self._arrived + (self._read_timeout or 0) - self._loop.time()
        if left_s > 0:
            self._read_timeout_handle = self._loop.call_later(left_s, self._on_read_timeout)
        else:
            super()._on_read_timeout()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Receive a head from the parser."""
        if self._is_answered:
            self._close()
            return
        code = data[0].code
        self._is_answered = code >= 200 or code == SWITCHING
        self._num_interim += not self._is_answered
        if self._num_interim > MAX_INTERIM:
            self.set_exception(aiohttp.ClientPayloadError("an answer with too many interim responses"))
            self._close()
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        """Fail the request, and the reader of its answer's body, if that is incomplete."""
        super().set_exception(exc, exc_cause)
        payload = self._payload
        if payload is None or payload.is_eof():
            return
        is_known = isinstance(exc, aiohttp.ClientError | OSError)
        failure = payload.exception() or (exc if is_known else aiohttp.ClientPayloadError(str(exc)))
        payload.set_exception(failure, exc_cause)
        # a reader that the end of a chunk has just woken waits again without a look at the exception
        self._loop.call_soon(payload.set_exception, failure, exc_cause)

    def _close(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()


class Connector(aiohttp.TCPConnector):
    """Opens any number of connections, as `Protocol`s."""

    def __init__(self, *, force_close: bool) -> None:
        super().__init__(limit=0, force_close=force_close)
        self._factory = partial(Protocol, loop=self._loop)  # type: ignore[assignment]  # its subclass


class Response(aiohttp.ClientResponse):
    """Raises StaleConnection if a reused connection was lost before it answered; aiohttp does not distinguish
    it from a new one.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        assert isinstance(protocol, Protocol), (
            "aiohttp detaches the connection only after the head of the answer"
        )
        try:
            started = await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if protocol.has_answered and not _has_begun(exc):
                raise StaleConnection from exc
            raise
        protocol.has_answered = True
        return started


def _has_begun(failure: aiohttp.ClientConnectionError) -> bool:
    """Whether a part of the answer's headers arrived before the connection was closed."""
    return isinstance(failure, aiohttp.ServerDisconnectedError) and not isinstance(failure.message, str)


def open_session(
    base_url: str, headers: Mapping[str, str], timeout_s: float, *, force_close: bool
) -> aiohttp.ClientSession:
    """`timeout_s`: for the next bytes of an answer. `force_close`: each request has a new connection."""
    # Not trust_env: it reads ~/.netrc in a thread before every request, and rejects requests with an
    # Authorization header when .netrc has an entry for the host.
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=timeout_s),
        auto_decompress=False,  # the caller decompresses, with limits
        max_field_size=MAX_FIELD,
        max_line_size=MAX_FIELD,
        max_headers=MAX_HEADERS,
        connector=Connector(force_close=force_close),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=_proxy(base_url),
        response_class=Response,
    )


def _proxy(url: str) -> URL | None:
    """The proxy that the environment (HTTPS_PROXY, NO_PROXY, …) sets for a URL; None for this machine."""
    parts = urlsplit(url)
    is_direct = is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc)
    proxy = None if is_direct else getproxies().get(parts.scheme)
    return URL(proxy) if proxy else None
