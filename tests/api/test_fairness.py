"""A caller who floods the server does not keep others from being answered. Orders are counted, no times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.config import Config
from headrace.models.catalog import Model
from tests.serving import SLOW_S, Served, serving

FLOOD = 100  # requests of one key in the air
PLACES = 32  # four may run, 28 may wait
ROUNDS = 4


@pytest.fixture(scope="module")
def keyed(default_model: Model) -> Iterator[Served]:
    config = Config.model_validate(
        {
            "engine": {"kv_cache_bytes": "256MiB", "disk_cache_bytes": 0, "max_num_seqs": 4, "max_queue": 28},
            "server": {"api_keys": ["flood", "other"]},
        }
    )
    with serving(create_app(config, build_backends(config, [default_model])), silence_s=SLOW_S) as served:
        yield served


@dataclass(slots=True)
class Callers:
    """Requests of two keys to one server. `statuses`: of the flood's, in the order of their ends."""

    server: Served
    http: aiohttp.ClientSession
    statuses: list[int] = field(default_factory=list)

    async def ask(self, key: str, **members: object) -> int:
        body = {"model": "smollm2-135m-instruct", "prompt": "The sky is", "max_tokens": 2, **members}
        headers = {"Authorization": f"Bearer {key}"}
        async with self.http.post("/v1/completions", json=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def flood(self, **members: object) -> None:
        """Send requests, each again when it is answered, for ever."""
        while True:
            self.statuses.append(await self.ask("flood", **members))
            if self.statuses[-1] == 503:
                await asyncio.sleep(0.05)


def flooded(server: Served, use: Callable[[Callers], Awaitable[None]], **members: object) -> list[int]:
    """Run `use` while one key has FLOOD requests in the air. Returns the statuses that the flood got."""

    async def run() -> list[int]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(server.url, connector=connector) as http:
            callers = Callers(server, http)
            flood = [asyncio.create_task(callers.flood(**members)) for _ in range(FLOOD)]
            while server.gateway.num_active < PLACES:  # noqa: ASYNC110  # another thread's count
                await asyncio.sleep(0.01)
            await use(callers)
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
            return callers.statuses

    return asyncio.run(run())


def test_the_other_comes_before_the_queue_of_a_flood(keyed: Served) -> None:
    async def use(callers: Callers) -> None:
        for _ in range(ROUNDS):
            before = callers.statuses.count(200)
            assert await callers.ask("other") == 200
            # without turns, the 32 requests that the flood has in the engine would come first
            assert callers.statuses.count(200) - before <= 12

    statuses = flooded(keyed, use, max_tokens=6)
    assert {200, 503} <= set(statuses)


def test_a_flood_of_long_answers_gives_up_a_seat(keyed: Served) -> None:
    async def use(callers: Callers) -> None:
        for _ in range(2):
            assert await callers.ask("other") == 200
        assert callers.statuses.count(200) == 0  # none of its answers had to end for that

    flooded(keyed, use, max_tokens=1500, ignore_eos=True, detect_loops=False)


@pytest.mark.parametrize("members", [{"priority": -(2**62)}, {"service_tier": "flex"}])
def test_a_callers_own_priority_only_makes_it_wait(keyed: Served, members: dict[str, object]) -> None:
    """With a priority of -2^62 nobody else was answered."""

    async def use(callers: Callers) -> None:
        for _ in range(2):
            assert await callers.ask("other") == 200

    flooded(keyed, use, max_tokens=6, **members)
