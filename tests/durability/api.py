"""HTTP to whichever server is there now, for those who live longer than servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import httpx2

Json = dict[str, Any]

TIMEOUT_S = 30.0


class Unanswered(Exception):
    """Whether it was done is not known."""


class Api:
    """A client of one server. `may_refuse`: whether 503 is an answer, as the database is away at times."""

    def __init__(self, *, may_refuse: bool = False) -> None:
        self._may_refuse = may_refuse
        self._client: httpx2.AsyncClient
        self.num_refused = self.num_unkept = 0

    @asynccontextmanager
    async def at(self, url: str) -> AsyncIterator[None]:
        limits = httpx2.Limits(max_connections=100)
        async with httpx2.AsyncClient(
            base_url=f"{url}/v1", timeout=TIMEOUT_S, limits=limits, verify=False
        ) as self._client:
            yield

    async def post(self, path: str, body: Json, headers: Mapping[str, str] | None = None) -> Json:
        """The answer. Raises Unanswered."""
        return (await self._ask("POST", path, json=body, headers=headers)).json()  # type: ignore[no-any-return]

    async def get(self, path: str, **query: str | int) -> Json:
        return (await self._ask("GET", path, params=query)).json()  # type: ignore[no-any-return]

    async def stream(
        self, method: str, path: str, body: Json | None = None, headers: Mapping[str, str] | None = None
    ) -> list[bytes]:
        """What came of it, until its end or the server's. Raises Unanswered when nothing came."""
        chunks: list[bytes] = []
        try:
            async with self._client.stream(method, path, json=body, headers=headers) as response:
                if response.status_code != 200:
                    await response.aread()
                self._check(response)
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)  # noqa: PERF401  # kept when it breaks off
        except httpx2.TransportError as exc:
            if not chunks:
                raise Unanswered from exc
        return chunks

    async def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = await self._client.request(method, path, **options)
        except httpx2.TransportError as exc:
            raise Unanswered from exc
        self._check(response)
        return response

    def _check(self, response: httpx2.Response) -> None:
        if response.status_code == 503 and self._may_refuse:
            check_refusal(response)
            self.num_refused += 1
            raise Unanswered
        if response.headers.get("X-Headrace-Persisted") == "false":
            self.unkept()
        assert response.status_code == 200, f"{response.request.method} {response.url}: {response.text}"

    def unkept(self) -> NoReturn:
        """An answer came, and said that it is not stored."""
        assert self._may_refuse, "not stored, and the database is well"
        self.num_unkept += 1
        raise Unanswered


def check_refusal(response: httpx2.Response) -> None:
    """That it is the one clean error of a database that is away."""
    assert response.status_code == 503, f"{response.status_code}: {response.text}"
    assert int(response.headers["Retry-After"]) > 0
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "store_unavailable", None)
    assert error["message"].startswith("The database cannot be used"), error
    assert not any(word in response.text for word in ("Traceback", "asyncpg", "sqlalchemy", "INSERT", "://"))
