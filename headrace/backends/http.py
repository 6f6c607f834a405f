"""The HTTP client for providers: one session each, failures mapped to ServerError in one place, and streams
whose connection closes when their reader leaves.

Credentials go to the configured address only: the client follows no redirect and forwards no header of the
caller's except those that a dialect names.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import aiohttp

from headrace.backends.body_decoding import ACCEPTED, MAX_BODY, MAX_LISTED, Unpacker, is_enough
from headrace.backends.connection import StaleConnection, open_session
from headrace.backends.error_body import error_body, is_page
from headrace.backends.refusals import MAX_NAME, Refusal, page, to_error, unreachable
from headrace.dialects.values import whole as whole_value
from headrace.errors import ProviderError, ProviderTimedOut, ServerError
from headrace.finite import dumped_pieces, size_up_to
from headrace.offload import SMALL, aside, while_wanted

MAX_MESSAGE = 1000  # characters of a provider's error message that callers see
MAX_REFUSAL = 2**16  # bytes of an error's body that are read
REFUSAL_S = 10.0  # time limit for reading an error's body
LARGE_BODY = 2**19  # bytes; aiohttp warns about larger `bytes` objects

SECRET_HEADER = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)  # headers that carry a credential
FAILURES = (aiohttp.ClientError, OSError)  # a TimeoutError is an OSError


class Upstream:
    """A provider's HTTP API.

    `headers` are sent with every request and include the provider's key. `timeout_s` limits the wait for the
    next bytes of an answer, not the whole answer.
    """

    def __init__(self, provider: str, base_url: str, *, headers: Mapping[str, str], timeout_s: float) -> None:
        self.provider, self.base_url = provider, base_url.rstrip("/")
        self._headers, self._timeout_s = dict(headers), timeout_s
        self._secrets = _secrets(headers)
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None  # opens a new connection for every request

    def sibling(self, base_url: str, timeout_s: float) -> Upstream:
        """Another address of the same provider."""
        return Upstream(self.provider, base_url, headers=self._headers, timeout_s=timeout_s)

    async def start(self) -> None:
        headers = {"Accept-Encoding": ACCEPTED, **self._headers}
        self._session, self._fresh = (
            open_session(self.base_url, headers, self._timeout_s, force_close=force_close)
            for force_close in (False, True)
        )

    async def aclose(self) -> None:
        for session in (self._session, self._fresh):
            if session is not None:
                await session.close()

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """Send a request and return the answer's JSON value. Raises ServerError, also for an error that comes
        with a status of success.
        """
        async with self.request(method, path, await _serialized(body)) as response:
            limit = MAX_LISTED if method == "GET" else MAX_BODY
            raw = await self.joined(self.pieces(response), limit)
            value = await aside(len(raw), lambda: self.loads(raw))
        if isinstance(value, dict) and value.get("error"):
            raise self.error_of_body(500, raw[:MAX_REFUSAL].decode(errors="replace"), path=path)
        return value

    @asynccontextmanager
    async def stream(
        self, path: str, body: object, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """POST `body` as JSON, with `headers` in addition to the session's, and yield the answer's bytes as
        they arrive. Raises ServerError for an error status. Leaving the context closes the connection unless
        the answer was read to its end.
        """
        async with self.request("POST", path, await _serialized(body), headers) as response:
            yield self.pieces(response)

    def loads(self, raw: bytes | str) -> Any:
        """Parse JSON. Raises ProviderError if it is none."""
        try:
            return whole_value(raw)
        except (ValueError, RecursionError) as exc:
            beginning = raw[:1000] if isinstance(raw, str) else raw[:1000].decode(errors="replace")
            if is_page(beginning):
                raise page(self.provider) from exc
            raise ProviderError(f"{self.provider} answered with something that is no JSON") from exc

    def error(self, status: int, message: str, *, type: str | None = None) -> ServerError:
        """The error for a provider's status or type of error, with its message."""
        return self._to_error(Refusal(self.provider, status, message, type=type))

    def error_of_body(
        self, status: int, raw: str, headers: Mapping[str, str] | None = None, *, path: str = ""
    ) -> ServerError:
        """The error for a provider's status and the body of its answer."""
        body = error_body(raw)
        refusal = Refusal(self.provider, status, body.message, body.code, body.type, body.param, body.pause)
        return self._to_error(replace(refusal, headers=headers or {}, is_page=is_page(raw), path=path))

    def _to_error(self, refusal: Refusal) -> ServerError:
        code, type, param = (
            name and self._mask_secrets(name)[:MAX_NAME]
            for name in (refusal.code, refusal.type, refusal.param)
        )
        message = self._mask_secrets(refusal.message)[:MAX_MESSAGE]
        return to_error(replace(refusal, message=message, code=code, type=type, param=param))

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a serialized body, with `headers` in addition to the session's. Raises ServerError for an
        error status. Leaving the context closes the connection unless the answer was read to its end.
        """
        all_headers = headers if body is None else {"Content-Type": "application/json", **(headers or {})}
        try:
            try:
                response = await self._send(self._session, method, path, body, all_headers)
            except StaleConnection:  # the request was not answered: send it once more, on a new connection
                response = await self._send(self._fresh, method, path, body, all_headers)
        except FAILURES as exc:
            raise self._failure(exc) from exc
        async with response:
            if not 200 <= response.status < 300:
                raise await self._refusal(response, path)
            yield response

    async def _send(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> aiohttp.ClientResponse:
        assert session is not None, "start() comes first"
        data = io.BytesIO(body) if body is not None and len(body) > LARGE_BODY else body
        url = self.base_url + path
        return await session.request(method, url, data=data, headers=headers, allow_redirects=False)

    def _failure(self, failure: Exception) -> ProviderError:
        """The error for one of aiohttp's, or an OSError."""
        if isinstance(failure, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            in_time = " in time" if isinstance(failure, TimeoutError) else ""
            return unreachable(f"{self.provider} cannot be reached{in_time}")
        if isinstance(failure, TimeoutError):
            return ProviderTimedOut(f"{self.provider} did not answer in time")
        return ProviderError(f"the connection to {self.provider} broke")

    async def joined(
        self, pieces: AsyncIterator[bytes], limit: int = MAX_BODY, *, beginning: bytes = b""
    ) -> bytes:
        """Join the pieces of a body after its `beginning`. Raises ProviderError, whose `has_started` says
        whether any byte arrived, also for more than `limit` bytes.
        """
        body = bytearray(beginning)
        try:
            async for piece in pieces:
                body += piece
                if len(body) > limit:
                    raise ProviderError(f"{self.provider} answered with more than {limit} bytes")
        except ProviderError as exc:
            exc.has_started = bool(body)
            raise
        return bytes(body)

    async def pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """Yield an answer's bytes as they arrive, decompressed and in UTF-8. Raises ProviderError."""
        read, unpacker = response.content.readany, None
        try:
            piece = await read()
            while piece and not is_enough(piece, response.headers) and (more := await read()):
                piece += more
            unpacker = Unpacker(self.provider, response.headers, piece)
            while piece:
                for unpacked in (piece,) if unpacker.is_plain else unpacker.feed(piece):
                    yield unpacked
                piece = await read()
            if rest := unpacker.end():
                yield rest
        except FAILURES as exc:
            with suppress(OSError):
                unread = _unread(response)
                for unpacked in (unread,) if unpacker is None else unpacker.feed(unread):
                    yield unpacked
            raise self._failure(exc) from exc

    async def _refusal(self, response: aiohttp.ClientResponse, path: str) -> ServerError:
        """Read the first MAX_REFUSAL bytes of an error's body, as far as they arrive within REFUSAL_S."""
        raw = bytearray()
        with suppress(TimeoutError):  # the status is enough for an error
            async with asyncio.timeout(REFUSAL_S):
                async for piece in self.pieces(response):
                    raw += piece
                    if len(raw) >= MAX_REFUSAL:
                        break
        text = bytes(raw[:MAX_REFUSAL]).decode(errors="replace")
        return self.error_of_body(response.status, text, response.headers, path=path)

    def repeats_secret(self, text: str) -> bool:
        """Whether `text` contains a credential that is sent to the provider."""
        return self._mask_secrets(text) != text

    def _mask_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "(secret)")
        return text


def root(base_url: str, *ends: str) -> str:
    """Strip the first of the path suffixes `ends` from a base URL. Other programs want URLs that include the
    path of an endpoint, so users configure such URLs here, too.
    """
    url = base_url.strip().rstrip("/")
    return next((url.removesuffix(end).rstrip("/") for end in ends if url.endswith(end)), url)


async def _serialized(body: object) -> bytes | None:
    """JSON of a request's body. A large one is written in a thread, in pieces: the encoder holds the GIL."""
    if body is None:
        return None
    return await aside(size_up_to(body, SMALL), lambda: "".join(while_wanted(dumped_pieces(body))).encode())


def _unread(response: aiohttp.ClientResponse) -> bytes:
    """Bytes that arrived before the connection broke. aiohttp buffers them but raises before it returns them,
    and has no public way to read them.
    """
    return b"".join(getattr(response.content, "_buffer", ()))


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """Credentials that no error message may repeat: words of secret headers, except short ones ("Bearer")."""
    values = [value for name, value in headers.items() if SECRET_HEADER.search(name)]
    return [word for value in values for word in value.split() if len(word) >= 8]
