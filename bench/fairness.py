"""How much later one caller's answers begin while another keeps 100 requests in the air.

    headrace serve --api-key KEY --api-key OTHER
    python -m bench.fairness http://127.0.0.1:8000 KEY OTHER

Each of the first key's requests has a prompt of thirty words and is sent after the one before it; the time
until its first text counts. The other key's requests ask for 64 tokens, with the highest priority that can be
written.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from typing import Any

import aiohttp

MODEL = "smollm2-135m-instruct"
REQUESTS, FLOOD, SETTLE_S, PAUSE_S = 40, 100, 5.0, 0.1
WORDS = (
    "river",
    "mill",
    "water",
    "stone",
    "bread",
    "bridge",
    "lantern",
    "harvest",
    "winter",
    "garden",
    "copper",
)


def body(max_tokens: int, **members: object) -> dict[str, Any]:
    text = " ".join(random.choices(WORDS, k=30))
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        **members,
    }


class Caller:
    """Sends chats with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session, self._url = session, url + "/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"}

    async def first_text_s(self) -> float:
        """Seconds until the first text of a streamed answer."""
        began = time.perf_counter()
        first = 0.0
        sent = body(8, stream=True)
        async with self._session.post(self._url, json=sent, headers=self._headers) as response:
            response.raise_for_status()
            async for line in response.content:
                if b'"content":"' in line and b'"content":""' not in line:
                    first = first or time.perf_counter() - began
        return first

    async def first_texts_s(self, number: int) -> list[float]:
        times = []
        for _ in range(number):
            times.append(await self.first_text_s())
            await asyncio.sleep(PAUSE_S)
        return sorted(times)

    async def flood(self) -> None:
        """Send one request after the other, until this is cancelled."""
        while True:
            sent = body(64, priority=-(2**62))
            async with self._session.post(self._url, json=sent, headers=self._headers) as response:
                await response.read()
                if response.status != 200:
                    await asyncio.sleep(PAUSE_S)


def shown(times: list[float]) -> str:
    return f"median {1000 * statistics.median(times):.0f} ms, 95 % {1000 * late(times):.0f} ms"


def late(times: list[float]) -> float:
    return times[int(0.95 * len(times))]


async def run(url: str, key: str, other: str) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        caller, flooding = Caller(session, url, key), Caller(session, url, other)
        await caller.first_texts_s(3)
        alone = await caller.first_texts_s(REQUESTS)
        tasks = [asyncio.create_task(flooding.flood()) for _ in range(FLOOD)]
        try:
            await asyncio.sleep(SETTLE_S)
            beside = await caller.first_texts_s(REQUESTS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    print(f"alone: {shown(alone)}\nbeside {FLOOD} requests: {shown(beside)}")
    print(f"ratio of the 95 %: {late(beside) / late(alone):.2f} (target: 2)")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(run(*sys.argv[1:]))
