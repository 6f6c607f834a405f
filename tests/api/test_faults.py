"""A thousand requests along a route whose targets hang, flap, die, cut their answers and talk nonsense: each
ends once, none is asked again once its answer has begun, and nothing stays open.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import aiohttp
import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.breaker import COOL_DOWN_S
from headrace.config import Config
from headrace.gateway.attempts import Clock
from headrace.gateway.gateway import Gateway
from tests.backends.two_ways import COUNTED, STOP, TEXT
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Seen, Upstream, answer, scripted, sse

NUM, AT_ONCE, FEW = 1000, 100, 4
PATH = "/v1/chat/completions"
WHOLE = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Grüße"}, "finish_reason": "stop"}],
    "usage": COUNTED["usage"],
}
JSON = {"Content-Type": "application/json"}
FAILED = {"error": {"message": "odd", "type": "server_error"}}
# name → a stream, and below a whole answer; after those with + no other may be asked
STREAMS: dict[str, Answer] = {
    "+answers": Answer(pieces=sse(*TEXT, STOP, COUNTED, "[DONE]")),
    "+slow": Answer(pieces=sse(*TEXT, STOP, COUNTED, "[DONE]"), delay_s=0.01),
    "+cut": Answer(pieces=sse(*TEXT), cut=True),
    "+hangs later": Answer(pieces=sse(*TEXT), stall=True),
    "+fails later": Answer(pieces=sse(*TEXT, FAILED)),
    "hangs": Answer(0, stall=True),
    "hangs after its head": Answer(stall=True),
    "dies": Answer(0, cut=True),
    "is cut before": Answer(cut=True),
    "fails at once": Answer(pieces=sse(FAILED)),
    "talks nonsense": Answer(pieces=[b"data: {{{\n\n"]),
    "500": answer(FAILED, status=500),
    "429": answer(FAILED, status=429, headers={"Retry-After": "0"}),
    "503": answer(FAILED, status=503),
    "+400": answer({"error": {"message": "bad", "type": "invalid_request_error"}}, status=400),
}
WHOLES: dict[str, Answer] = {
    "+answers": answer(WHOLE),
    "+slow": Answer(200, JSON, [json.dumps(WHOLE).encode()], delay_s=0.02),
    "+is cut": Answer(200, JSON, [json.dumps(WHOLE).encode()[:50]], cut=True),
    "hangs": Answer(0, stall=True),
    "hangs after its head": Answer(200, JSON, stall=True),
    "dies": Answer(0, cut=True),
    "talks nonsense": Answer(200, JSON, [b"{{{"]),
    "500": answer(FAILED, status=500),
    "429": answer(FAILED, status=429, headers={"Retry-After": "0"}),
    "503": answer(FAILED, status=503),
    "+400": STREAMS["+400"],
}


class Fickle:
    """What a provider does with each request, by chance, unless it `is_well` or `is_down`."""

    def __init__(self, upstream: Upstream, seed: int) -> None:
        self.random, self.is_well, self.is_down = Random(seed), False, False
        self.fates: list[tuple[str, str]] = []  # (the caller's id, what became of it)
        self.upstream, upstream.chooses = upstream, self.choose

    def choose(self, seen: Seen) -> Answer:
        fates = STREAMS if seen.body.get("stream") else WHOLES
        name = "+answers" if self.is_well or self.random.random() < 0.5 else self.random.choice([*fates])
        name = "dies" if self.is_down else name
        self.fates.append((seen.body["messages"][0]["content"], name))
        return fates[name]


class Time:
    """The world's own, a hundred times as fast to who sleeps; a test may move it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return time.monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


class Faults:
    """Two fickle providers, and Headrace in front of them."""

    def __init__(self, exits: ExitStack) -> None:
        self.fickle = [Fickle(exits.enter_context(scripted()), seed) for seed in (1, 2)]
        self.time, self.order = Time(), list[tuple[str, str, str]]()
        providers = {
            name: {
                "kind": "openai",
                "base_url": f"{fickle.upstream.url}/v1",
                "models": ["m"],
                "timeout_s": 1.0,  # longer than this busy process ever takes to say a word
            }
            for name, fickle in zip("ab", self.fickle, strict=True)
        }
        targets = [{"target": f"{name}:m", "weight": 1} for name in "ab"]
        route = {"targets": targets, "retries": 1}
        config = Config.model_validate({"providers": providers, "routes": {"fast": route}})
        backends = build_providers(config)
        app = create_app(config, backends)
        clock = Clock(self.time.now, self.time.sleep, Random(3))
        app.state.gateway = Gateway(backends, remote=providers, routes=config.routes, clock=clock)
        self.served: Served = exits.enter_context(serving(app))

    def breakers(self) -> dict[str, str]:
        found = self.served.get("/v1/models/fast/route").json()["candidates"]
        return {candidate["provider"]: candidate["breaker"] for candidate in found}


@pytest.fixture
def faults() -> Iterator[Faults]:
    with ExitStack() as exits:
        yield Faults(exits)


def test_a_thousand_under_random_faults_end_once_each(faults: Faults) -> None:
    ends = asyncio.run(_ask_all(faults, range(NUM)))
    assert sum(ends.values()) == NUM
    assert {end for _, end in ends} == {"answered", "failed", "failed later", "left"}
    for way in ("passed on", "translated"):
        assert ends[way, "answered"] > 200
        assert ends[way, "failed"] > 10
        assert ends[way, "failed later"] > 5
    _check_never_again(faults)
    eventually(lambda: not faults.served.gateway.num_active)


def test_breakers_open_and_close(faults: Faults) -> None:
    first, second = faults.fickle
    first.is_down, second.is_well = True, True
    ends = asyncio.run(_ask_all(faults, range(60), stays=True))
    assert {end for _, end in ends} == {"answered"}
    assert faults.breakers() == {"a": "open", "b": "closed"}
    num_before = len(first.fates)
    asyncio.run(_ask_all(faults, range(60), stays=True))
    assert len(first.fates) == num_before
    first.is_down, first.is_well = False, True
    faults.time.ahead_s += COOL_DOWN_S
    assert faults.breakers()["a"] == "half-open"
    asyncio.run(_ask_all(faults, range(40), stays=True))
    assert faults.breakers() == {"a": "closed", "b": "closed"}
    assert len(first.fates) > num_before + 5


async def _ask_all(faults: Faults, numbers: range, *, stays: bool = False) -> Counter[tuple[str, str]]:
    """By (way, end) how many. Where they do not all stay, each eleventh is in a hurry."""
    ends: Counter[tuple[str, str]] = Counter()
    places = asyncio.Semaphore(FEW if stays else AT_ONCE)

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        way = "passed on" if number % 4 < 2 else "translated"
        async with places:
            limit_s = 0.03 if number % 11 == 0 and not stays else 20
            try:
                async with asyncio.timeout(limit_s):
                    ends[way, await _ask(session, number, way)] += 1
            except TimeoutError:
                assert limit_s < 1, f"request {number} has no end"
                ends[way, "left"] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(faults.served.url, connector=connector) as session:
        await asyncio.gather(*(one(session, number) for number in numbers))
    return ends


async def _ask(session: aiohttp.ClientSession, number: int, way: str) -> str:
    """Send one request, and return how it ended."""
    body: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": f"request {number}"}]}
    headers = {} if way == "passed on" else {"X-Headrace-Strict": "true"}
    body["stream"] = number % 2 == 0
    async with session.post(PATH, json=body, headers=headers) as response:
        raw = (await response.read()).decode()
    if not body["stream"] or response.status != 200:
        found = json.loads(raw)
        assert ("error" in found) == (response.status != 200)
        return "failed" if "error" in found else "answered"
    datas = [event.partition("data: ")[2] for event in raw.split("\n\n") if "data: " in event]
    assert datas.count("[DONE]") <= 1
    sent = datas[:-1] if datas[-1] == "[DONE]" else datas
    errors = [index for index, data in enumerate(sent) if "error" in json.loads(data)]
    if not errors:
        assert datas[-1] == "[DONE]"
        return "answered"
    assert errors == [len(sent) - 1]  # one, and nothing after it but the end
    return "failed later"


def _check_never_again(faults: Faults) -> None:
    """Who was asked for which request, in order of arrival: after an answer that had begun, nobody."""
    fates_of: dict[str, list[str]] = defaultdict(list)
    for fickle in faults.fickle:
        for id, fate in fickle.fates:
            fates_of[id].append(fate)
    assert len(fates_of) > NUM * 0.9
    assert any(len(fates) > 2 for fates in fates_of.values())
    for id, fates in fates_of.items():
        assert sum(fate.startswith("+") for fate in fates) <= 1, (id, fates)
