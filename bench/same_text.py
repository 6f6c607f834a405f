"""Whether seeded requests get the same text, whatever else runs and is cached (docs/determinism.md): random
ones, each computed alone, then again from the cache, beside 15 others, and after a restart from the disk.

    python -m bench.same_text [--requests 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: python bench/same_text.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.machine import machine
from bench.systems import Server, known, start
from headrace.config import PathsConfig
from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, prepare

CROWD = 16
TIMEOUT_S = 600
WORDS = (
    "the",
    "mill",
    "river",
    "stood",
    "where",
    "water",
    "turned",
    "no",
    "wheel",
    "and",
    "flood",
    "knew",
    "why",
)
Request = tuple[str, dict[str, Any]]  # path and body
Texts = list[list[str]]  # of each request, of each of its answers


def main() -> int:
    parser = argparse.ArgumentParser(description="The same texts again?")
    parser.add_argument("--requests", type=int, default=200, metavar="N", help="how many (%(default)s)")
    count = parser.parse_args().requests
    print(machine(("headrace", "openvino")))
    found = asyncio.run(collect(prepare(DEFAULT_MODEL, Cache(PathsConfig().cache)), count))
    first = found["computed alone"]
    same = {way: sum(a == b for a, b in zip(first, texts, strict=True)) for way, texts in found.items()}
    for way, number in same.items():
        print(f"{number:4} of {count} as computed alone: {way}")
    return 0 if all(number == count for number in same.values()) else 1


async def collect(model: Model, count: int) -> dict[str, Texts]:
    """The texts in each of the ways. The servers begin with an empty cache; the second finds what the first
    has left on the disk, the third nothing.
    """
    requests = [request_of(seed) for seed in range(count)]
    found = {}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        async with serving(model, Path(one)) as url:
            found["computed alone"] = await _texts(url, requests, at_once=1)
            found["cached, alone"] = await _texts(url, requests, at_once=1)
            found["cached, beside 15 others"] = await _texts(url, requests, at_once=CROWD)
        async with serving(model, Path(one)) as url:
            found["after a restart"] = await _texts(url, requests, at_once=1)
        async with serving(model, Path(other)) as url:
            found["computed beside 15 others"] = await _texts(url, requests, at_once=CROWD)
    return found


def request_of(seed: int) -> Request:
    """To either endpoint, long or short, often beginning as others do."""
    chance = random.Random(seed)
    opening = " ".join(random.Random(chance.randrange(3)).choices(WORDS, k=200))
    text = opening[: chance.choice([0, 100, 900])] + " ".join(
        chance.choices(WORDS, k=chance.randrange(1, 300))
    )
    kinds: list[Request] = [
        ("/v1/completions", {"prompt": text}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
    ]
    path, content = chance.choice(kinds)
    drawn = {
        "seed": chance.randrange(2**31),
        "temperature": chance.choice([0, 0.7, 1, 1.3]),
        "top_p": chance.choice([1, 0.9]),
        "frequency_penalty": chance.choice([0, 0, 0.4]),
        "n": chance.choice([1, 1, 1, 2]),
        "max_tokens": chance.randrange(4, 33),
    }
    return path, {"model": DEFAULT_MODEL, **content, **drawn}


@asynccontextmanager
async def serving(model: Model, scratch: Path) -> AsyncIterator[str]:
    """The URL of a server that keeps its prompts in `scratch`; when the block ends it is shut down."""
    command = next(one for one in known(model, PathsConfig().cache, scratch) if one.name == "headrace")
    child = await start(command, sys.executable, scratch / "log")
    assert isinstance(child, Server)
    try:
        yield child.url
    finally:
        await child.stop()


async def _texts(url: str, requests: list[Request], *, at_once: int) -> Texts:
    with ThreadPoolExecutor(at_once) as pool:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(pool, _ask, url, *request) for request in requests)
        )


def _ask(url: str, path: str, body: dict[str, Any]) -> list[str]:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        choices = json.load(response)["choices"]
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in choices]


if __name__ == "__main__":
    sys.exit(main())
