"""The one upstream client: a session a provider, errors told apart once, streams that end when their reader
leaves.

Credentials are sent to the configured address only: no redirect is followed, nothing of a caller's headers is
passed on.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from headrace.backends.bodies import ACCEPTED, MAX_BODY, MAX_LISTED, Decoder
from headrace.backends.connection import KeptTooLong, Response
from headrace.backends.refusals import MAX_NAME, Named, Refusal, is_page, named_in, page, to_error
from headrace.backends.words import message_of
from headrace.config import is_loopback
from headrace.dialects.values import whole as whole_value
from headrace.errors import ProviderError, ProviderTimedOut, ProviderUnreachable, ServerError
from headrace.finite import dumped_pieces, size_up_to
from headrace.offload import SMALL, aside

CONNECT_S = 5.0
MAX_MESSAGE = 1000  # characters of a provider's own words
MAX_REFUSAL = 2**16  # bytes that are read of an error's body
REFUSAL_S = 10.0  # and for how long
MAX_LINE = 16 * 2**20  # bytes of one event
LARGE_BODY = 2**19  # bytes

SECRET_HEADER = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)  # headers that carry a credential


FAILURES = (aiohttp.ClientError, OSError)  # a TimeoutError is an OSError


@dataclass(frozen=True, slots=True)
class Sent:
    """An event of a text/event-stream."""

    event: str
    data: str
    is_whole: bool = False  # it is no event, but a JSON body that came instead of a stream
    is_last: bool = field(default=False, compare=False)  # nothing ended it but the end of the stream


class Reading(Protocol):
    """What a dialect knows of its errors."""

    def error(self, sent: Sent) -> ServerError | None:
        """What went wrong, if the event says so. Raises ProviderError for what is no JSON object."""
        ...


class Upstream:
    """One provider. `headers` carry its key. `timeout_s`: between two pieces of an answer, not in all."""

    def __init__(self, provider: str, base_url: str, *, headers: Mapping[str, str], timeout_s: float) -> None:
        self.provider, self.base_url = provider, base_url.rstrip("/")
        self._headers, self._timeout_s = dict(headers), timeout_s
        self._secrets = _secrets(headers)
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None  # keeps no connection

    async def start(self) -> None:
        self._session, self._fresh = self._opened(), self._opened(force_close=True)

    def _opened(self, *, force_close: bool = False) -> aiohttp.ClientSession:
        # Not trust_env: it would ask a thread for ~/.netrc and the proxy before every request, and refuse
        # those that have an Authorization header when .netrc knows the host.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s)
        return aiohttp.ClientSession(
            headers={"Accept-Encoding": ACCEPTED, **self._headers},
            timeout=timeout,
            auto_decompress=False,  # `pieces` does it, within bounds
            connector=aiohttp.TCPConnector(limit=0, force_close=force_close),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self.base_url),
            response_class=Response,
        )

    async def aclose(self) -> None:
        for session in (self._session, self._fresh):
            if session is not None:
                await session.close()

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """The answer as a JSON value. Raises ProviderError."""
        async with self.request(method, path, await _serialized(body)) as response:
            limit = MAX_LISTED if method == "GET" else MAX_BODY
            raw = await self.whole(response, limit)
            return await aside(len(raw), lambda: self.loads(raw))

    @asynccontextmanager
    async def stream(self, path: str, body: object) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """POST; the answer in pieces as they come. A status that is an error is raised here. Leaving closes
        the connection at once, unless the answer has been read to its end.
        """
        async with self.request("POST", path, await _serialized(body)) as response:
            yield self.pieces(response)

    def no_stream(self, whole: bytes, reading: Reading) -> ServerError:
        """For a body that came instead: it may say what is wrong."""
        try:
            error = reading.error(Sent("", whole.decode(errors="replace"), is_whole=True))
        except ProviderError:
            error = page(self.provider) if is_page(whole) else None
        return error or ProviderError(f"{self.provider} answered with something that is no stream")

    def loads(self, raw: bytes | str) -> Any:
        """Raises ProviderError for what is no JSON."""
        try:
            return whole_value(raw)
        except (ValueError, RecursionError) as exc:
            begun = raw[:1000].encode(errors="replace") if isinstance(raw, str) else raw
            if is_page(begun):
                raise page(self.provider) from exc
            raise ProviderError(f"{self.provider} answered with something that is no JSON") from exc

    def error(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        named: Named | None = None,
        is_page: bool = False,
        path: str = "",
    ) -> ServerError:
        """The error for a provider's status, with its own words and codes, as far as it has any."""
        told, named = self._without_secrets(message)[:MAX_MESSAGE], named or Named()
        code, type, param = (
            name and self._without_secrets(name)[:MAX_NAME] for name in (named.code, named.type, named.param)
        )
        refusal = Refusal(
            self.provider, status, told, code, type, param, headers or {}, is_page=is_page, path=path
        )
        return to_error(refusal)

    def told(
        self, status: int, raw: str, headers: Mapping[str, str] | None = None, *, path: str = ""
    ) -> ServerError:
        """As `error`, for the body of an error as it came."""
        is_html = is_page(raw.encode(errors="replace"))
        named = named_in(raw)
        return self.error(status, message_of(raw), headers, named=named, is_page=is_html, path=path)

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Of a body that is written already, with these headers besides the provider's own. A status that is
        an error is raised. Leaving closes the connection at once, unless the answer has been read to its end.
        """
        given = headers if body is None else {"Content-Type": "application/json", **(headers or {})}
        with self._told_apart():
            try:
                response = await self._sent(self._session, method, path, body, given)
            except KeptTooLong:
                response = await self._sent(self._fresh, method, path, body, given)
        async with response:
            if response.status >= 300:
                with self._told_apart():
                    raise await self._refusal(response, path)
            yield response

    async def _sent(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> aiohttp.ClientResponse:
        assert session is not None, "start() comes first"
        # a large one as a file: aiohttp warns of large bytes
        data = io.BytesIO(body) if body is not None and len(body) > LARGE_BODY else body
        url = self.base_url + path
        return await session.request(method, url, data=data, headers=headers, allow_redirects=False)

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """What goes wrong on the way to the provider and back, as ProviderError."""
        try:
            yield
        except FAILURES as exc:
            raise self._failure(exc) from exc

    def _failure(self, failure: Exception) -> ProviderError:
        if isinstance(failure, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            in_time = " in time" if isinstance(failure, TimeoutError) else ""
            return ProviderUnreachable(
                f"{self.provider} cannot be reached{in_time}", headers={"Retry-After": "1"}
            )
        if isinstance(failure, TimeoutError):
            return ProviderTimedOut(f"{self.provider} did not answer in time")
        return ProviderError(f"the connection to {self.provider} broke")

    async def whole(self, response: aiohttp.ClientResponse, limit: int = MAX_BODY) -> bytes:
        """The body of an answer. Raises ProviderError, `is_begun` where a part of it had come."""
        return await self.gathered(self.pieces(response), limit)

    async def gathered(self, pieces: AsyncIterator[bytes], limit: int = MAX_BODY) -> bytes:
        """The same of what is left of a body. Raises ProviderError for more than `limit` bytes, too."""
        found = bytearray()
        try:
            async for piece in pieces:
                found += piece
                if len(found) > limit:
                    raise ProviderError(f"{self.provider} answered with more than {limit} bytes")
        except ProviderError as exc:
            exc.is_begun = bool(found)
            raise
        return bytes(found)

    async def pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """Of an answer, as they come, decompressed. Raises ProviderError."""
        read = response.content.readany
        decoder = Decoder(self.provider, response.headers.get("Content-Encoding", ""))
        try:
            while piece := await read():
                for decoded in decoder.feed(piece):
                    yield decoded
            if not decoder.is_whole:
                raise OSError("the compressed body has no end")
        except FAILURES as exc:
            with suppress(OSError):
                for decoded in decoder.feed(_unread(response)):
                    yield decoded
            raise self._failure(exc) from exc

    async def _refusal(self, response: aiohttp.ClientResponse, path: str) -> ServerError:
        raw = (await self._some(response)).decode(errors="replace")
        return self.told(response.status, raw, response.headers, path=path)

    async def _some(self, response: aiohttp.ClientResponse) -> bytes:
        """As much of an error's body as is read: MAX_REFUSAL bytes, and what comes within REFUSAL_S."""
        raw = bytearray()
        try:
            async with asyncio.timeout(REFUSAL_S):
                async for piece in self.pieces(response):
                    raw += piece
                    if len(raw) >= MAX_REFUSAL:
                        break
        except TimeoutError:
            pass  # the status tells enough
        return bytes(raw[:MAX_REFUSAL])

    def has_secret(self, text: str) -> bool:
        return self._without_secrets(text) != text

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "(secret)")
        return text


def root(base_url: str, *ends: str) -> str:
    """An address without these ends of a path, which the paths of requests begin with: many programs want
    an address with them.
    """
    url = base_url.rstrip("/")
    return next((url.removesuffix(end).rstrip("/") for end in ends if url.endswith(end)), url)


async def _serialized(body: object) -> bytes | None:
    """JSON of a request's body. A large one is written in a thread, in pieces: the encoder holds the GIL."""
    if body is None:
        return None
    return await aside(size_up_to(body, SMALL), lambda: "".join(dumped_pieces(body)).encode())


def _unread(response: aiohttp.ClientResponse) -> bytes:
    """What came before the connection broke: aiohttp keeps it, but raises first. It has no public way."""
    return b"".join(getattr(response.content, "_buffer", ()))


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """The words that no message may repeat, whatever a provider says. "Bearer" is none."""
    values = [value for name, value in headers.items() if SECRET_HEADER.search(name)]
    return [word for value in values for word in value.split() if len(word) >= 8]


def _proxy(url: str) -> URL | None:
    """What the environment names for this address (HTTPS_PROXY, NO_PROXY, …); never for this machine."""
    parts = urlsplit(url)
    is_direct = is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc)
    found = None if is_direct else getproxies().get(parts.scheme)
    return URL(found) if found else None


class _Lines:
    r"""Cuts pieces into lines without their ends (\n, \r\n or \r). A line is whole as soon as its \r is
    there: what follows may take its time, and only a \n belongs to it.
    """

    def __init__(self) -> None:
        self._held: list[bytes] = []  # of a line that has not ended
        self._size = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> list[str]:
        """The lines that end in this piece. Raises ProviderError for one without bounds."""
        if not piece:
            return []
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        found = piece.splitlines()
        rest = b"" if piece.endswith((b"\r", b"\n")) or not piece else found.pop()
        if found and self._held:
            found[0] = b"".join([*self._held, found[0]])
            self._held, self._size = [], 0
        if rest:
            self._held.append(rest)
            self._size += len(rest)
            if self._size > MAX_LINE:
                raise ProviderError("a provider sent an event without an end")
        return [line.decode(errors="replace") for line in found]

    def end(self) -> list[str]:
        """The last line, if nothing ended it."""
        return [b"".join(self._held).decode(errors="replace")] if self._held else []


async def lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    r"""Lines without their ends (\n, \r\n or \r), however they are cut up; the last one needs no end. Raises
    ProviderError for one without bounds.
    """
    cutter = _Lines()
    async for piece in pieces:
        for line in cutter.feed(piece):
            yield line
    for line in cutter.end():
        yield line


class _Events:
    """Puts lines together to events."""

    def __init__(self) -> None:
        self._event, self._data, self._size = "", list[str](), 0
        self._is_first = True

    def feed(self, line: str) -> Sent | None:
        """The event that this line ends. Raises ProviderError for one without bounds."""
        if self._is_first:
            line, self._is_first = line.removeprefix("\ufeff"), False
        if not line:
            return self.end()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > MAX_LINE:
                raise ProviderError("a provider sent an event without an end")
        return None

    def end(self) -> Sent | None:
        sent = Sent(self._event, "\n".join(self._data)) if self._data else None
        self._event, self._data, self._size = "", [], 0
        return sent


async def events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[Sent, None]:
    """The events of a text/event-stream (WHATWG HTML, 9.2.6). Comments are skipped; the last event needs no
    empty line after it. Raises ProviderError for one without bounds.
    """
    cutter, builder = _Lines(), _Events()
    async for piece in pieces:
        for line in cutter.feed(piece):
            if (sent := builder.feed(line)) is not None:
                yield sent
    for line in [*cutter.end(), ""]:
        if (sent := builder.feed(line)) is not None:
            yield replace(sent, is_last=True)


def events_in(raw: bytes) -> list[Sent]:
    """The events of what is there already, as `events` finds them."""
    cutter, builder = _Lines(), _Events()
    found = [builder.feed(line) for line in cutter.feed(raw)]
    last = [builder.feed(line) for line in [*cutter.end(), ""]]
    found += [replace(sent, is_last=True) for sent in last if sent is not None]
    return [sent for sent in found if sent is not None]
