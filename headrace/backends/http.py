"""The one upstream client: a session a provider, errors told apart once, streams that end when their reader
leaves.

Credentials are sent to the configured address only: no redirect is followed, nothing of a caller's headers is
passed on.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from headrace.errors import (
    ModelNotFound,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
)

CONNECT_S = 5.0
MAX_MESSAGE = 1000  # characters of a provider's own words
MAX_LINE = 16 * 2**20  # bytes of one event


@dataclass(frozen=True, slots=True)
class Sent:
    """An event of a text/event-stream."""

    event: str
    data: str


class Upstream:
    """One provider. `headers` carry its key. `timeout_s`: between two pieces of an answer, not in all."""

    def __init__(self, provider: str, base_url: str, *, headers: Mapping[str, str], timeout_s: float) -> None:
        self.provider, self.base_url = provider, base_url.rstrip("/")
        self._headers, self._timeout_s = dict(headers), timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """The answer as a JSON value. Raises ProviderError."""
        async with self._request(method, path, body) as response:
            return self.loads(await response.read())

    @asynccontextmanager
    async def stream(self, path: str, body: object) -> AsyncIterator[AsyncIterator[bytes]]:
        """POST; the answer in pieces as they come. A status that is an error is raised here. Leaving closes
        the connection at once, unless the answer has been read to its end.
        """
        async with self._request("POST", path, body) as response:
            yield self._pieces(response)

    def loads(self, raw: bytes | str) -> Any:
        """Raises ProviderError for what is no JSON."""
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as exc:
            raise ProviderError(f"{self.provider} answered with something that is no JSON") from exc

    def error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> ServerError:
        """The error for a provider's status, with its own words, as far as it has any."""
        told = f"{self.provider}: {message[:MAX_MESSAGE] or f'status {status}'}"
        retry = {name: value for name, value in (headers or {}).items() if name.lower() == "retry-after"}
        if status in (401, 403):
            return ProviderKeyRefused(told)
        if status == 404:
            return ModelNotFound(told, param="model")
        if status == 429:
            return ProviderLimited(told, headers={"Retry-After": "1", **retry})
        if status in (408, 504):
            return ProviderTimedOut(told)
        if status in (503, 529):
            return ProviderUnreachable(told, headers={"Retry-After": "1", **retry})
        return ProviderRefused(told) if 400 <= status < 500 else ProviderError(told)

    @asynccontextmanager
    async def _request(self, method: str, path: str, body: object) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "start() comes first"
        try:
            async with self._session.request(
                method, self.base_url + path, json=body, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    raise await self._refusal(response)
                yield response
        except TimeoutError as exc:
            raise ProviderTimedOut(f"{self.provider} did not answer in time") from exc
        except aiohttp.ClientConnectorError as exc:
            raise ProviderUnreachable(
                f"{self.provider} cannot be reached", headers={"Retry-After": "1"}
            ) from exc
        except aiohttp.ClientError as exc:
            raise ProviderError(f"the connection to {self.provider} broke") from exc

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for piece in response.content.iter_any():
                yield piece
        except TimeoutError as exc:
            raise ProviderTimedOut(f"{self.provider} fell silent") from exc
        except aiohttp.ClientError as exc:
            raise ProviderError(f"the connection to {self.provider} broke") from exc

    async def _refusal(self, response: aiohttp.ClientResponse) -> ServerError:
        if response.status < 400:
            return ProviderError(
                f"{self.provider} answered with a redirect; base_url must be the final address"
            )
        raw = (await response.content.read(2**16)).decode(errors="replace")
        return self.error(response.status, message_of(raw), response.headers)


def message_of(raw: str) -> str:
    """The message in an error body, of whatever dialect: {"error": {"message"}}, {"error": text},
    {"message"}, {"detail"}; nothing of a body that is no JSON, which may be a page of HTML.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    while isinstance(found, dict):
        found = next((found[key] for key in ("error", "message", "detail") if key in found), None)
    return found if isinstance(found, str) else ""


async def lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    r"""Lines without their ends (\n, \r\n or \r), however they are cut up; the last one needs no end. Raises
    ProviderError for one without bounds.
    """
    held = b""
    async for piece in pieces:
        held += piece
        if len(held) > MAX_LINE:
            raise ProviderError("a provider sent an event without an end")
        while (end := _end_of_line(held)) is not None:
            line, held = held[: end[0]], held[end[1] :]
            yield line.decode(errors="replace")
    if held.rstrip(b"\r"):
        yield held.rstrip(b"\r").decode(errors="replace")


def _end_of_line(held: bytes) -> tuple[int, int] | None:
    """Where the first line ends and where the next begins; a \\r at the very end may be half of a \\r\\n."""
    found = [at for at in (held.find(b"\n"), held.find(b"\r")) if at >= 0]
    if not found:
        return None
    at = min(found)
    if held[at : at + 1] == b"\n":
        return at, at + 1
    if at + 1 == len(held):
        return None
    return at, at + (2 if held[at + 1 : at + 2] == b"\n" else 1)


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[Sent]:
    """The events of a text/event-stream (WHATWG HTML, 9.2.6). Comments are skipped; an
    event that the end cuts off is dropped unless its data is complete.
    """
    event, data = "", list[str]()
    async for line in lines(pieces):
        if not line:
            if data:
                yield Sent(event, "\n".join(data))
            event, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            event = value
    if data:
        yield Sent(event, "\n".join(data))
