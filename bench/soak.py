"""A long mixed load on a real server: whether memory grows, descriptors leak, or requests get stuck.

    python -m bench.soak --minutes 30

Chats, streams, callers who leave in the middle of one, embeddings, stored conversations, and chats with a
remote provider (a server of this program), by three API keys with limits. It prints a line for each of twenty
parts of the time, then the verdict. Exit code 1: at the end there is more than 5 % more memory, or there are
more open descriptors, than at one third of the time; or a request never ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from bench.machine import free_port, machine

PARTS = 20
WORDS = ("water", "wheel", "mill", "river", "stone")
GROWTH = 1.05  # of memory, from one third of the time to its end
DESCRIPTORS = 10  # more than at one third: idle connections of pools
IDLE_S = 30.0  # how long the last requests may take
MODEL, ADMIN = "smollm2-135m-instruct", "soak-admin"
CONFIG = """
[providers.far]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "none"

[prices."far:echo"]
prompt = 1
completion = 2
"""
LOADS = {"chat": 4, "stream": 4, "leaver": 3, "embeddings": 2, "conversation": 2, "remote": 6}  # workers


@dataclass(slots=True)
class Soak:
    """The server under load. `counts`: requests by kind and status."""

    url: str
    process: psutil.Process
    http: aiohttp.ClientSession
    keys: list[str]
    end: float
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def headers(self, chance: random.Random) -> dict[str, str]:
        return {"Authorization": f"Bearer {chance.choice(self.keys)}"}

    async def post(self, kind: str, path: str, body: object, chance: random.Random) -> object:
        async with self.http.post(self.url + path, json=body, headers=self.headers(chance)) as answer:
            self.counts[kind, answer.status] += 1
            return await answer.json(content_type=None)

    async def metric(self, name: str) -> float:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with self.http.get(self.url + "/metrics", headers=headers) as answer:
            families = text_string_to_metric_families(await answer.text())
            return sum(s.value for family in families for s in family.samples if s.name == name)


def messages(chance: random.Random) -> list[dict[str, str]]:
    text = " ".join(
        chance.choice(("water", "wheel", "mill", "river", "stone")) for _ in range(chance.randint(3, 80))
    )
    return [{"role": "user", "content": f"{chance.random()}: what is {text}?"}]


async def chat(soak: Soak, chance: random.Random) -> None:
    body = {"model": MODEL, "messages": messages(chance), "max_tokens": chance.randint(1, 40)}
    await soak.post("chat", "/v1/chat/completions", body, chance)


async def stream(soak: Soak, chance: random.Random, *, leaves: bool = False) -> None:
    kind = "leaver" if leaves else "stream"
    body = {
        "model": MODEL,
        "messages": messages(chance),
        "max_tokens": 60,
        "stream": True,
        "ignore_eos": leaves,
    }
    async with soak.http.post(
        soak.url + "/v1/chat/completions", json=body, headers=soak.headers(chance)
    ) as answer:
        soak.counts[kind, answer.status] += 1
        num_lines = 0
        async for _ in answer.content:
            num_lines += 1
            if leaves and num_lines > chance.randint(2, 40):
                return  # closes the connection


async def leaver(soak: Soak, chance: random.Random) -> None:
    await stream(soak, chance, leaves=True)


async def embeddings(soak: Soak, chance: random.Random) -> None:
    inputs = [message["content"] for _ in range(chance.randint(1, 5)) for message in messages(chance)]
    await soak.post("embeddings", "/v1/embeddings", {"model": MODEL, "input": inputs}, chance)


async def conversation(soak: Soak, chance: random.Random) -> None:
    headers = soak.headers(chance)
    async with soak.http.post(soak.url + "/v1/conversations", json={}, headers=headers) as answer:
        soak.counts["conversation", answer.status] += 1
        if answer.status != 200:
            return
        id = (await answer.json())["id"]
    for _ in range(3):
        body = {"model": MODEL, "messages": messages(chance), "max_tokens": 12, "conversation": id}
        async with soak.http.post(soak.url + "/v1/chat/completions", json=body, headers=headers) as answer:
            soak.counts["conversation", answer.status] += 1
            await answer.read()
    async with soak.http.delete(f"{soak.url}/v1/conversations/{id}", headers=headers) as answer:
        await answer.read()


async def remote(soak: Soak, chance: random.Random) -> None:
    streams = chance.random() < 0.5
    body = {"model": "far:echo", "messages": messages(chance), "max_tokens": 20, "stream": streams}
    async with soak.http.post(
        soak.url + "/v1/chat/completions", json=body, headers=soak.headers(chance)
    ) as answer:
        soak.counts["remote", answer.status] += 1
        await answer.read()
    await asyncio.sleep(0.05)


WORK: dict[str, Callable[[Soak, random.Random], Awaitable[None]]] = {
    "chat": chat, "stream": stream, "leaver": leaver, "embeddings": embeddings,
    "conversation": conversation, "remote": remote,
}  # fmt: skip


async def work(soak: Soak, kind: str, seed: int) -> None:
    chance = random.Random(seed)
    while time.monotonic() < soak.end:
        try:
            await WORK[kind](soak, chance)
        except (aiohttp.ClientError, TimeoutError) as exc:
            soak.counts[f"{kind}: {type(exc).__name__}", 0] += 1
            await asyncio.sleep(0.2)


async def answer(request: web.Request) -> web.StreamResponse:
    """The remote provider: one answer of OpenAI's dialect, whole or as a stream."""
    body = await request.json()
    usage = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
    head = {"id": "chatcmpl-1", "created": 1, "model": "echo"}
    if not body.get("stream"):
        message = {"role": "assistant", "content": "as you say"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    pieces: list[tuple[dict[str, str], str | None]] = [
        ({"content": word}, None) for word in ("as", " you", " say")
    ]
    for delta, reason in (*pieces, ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
    await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
    return response


@asynccontextmanager
async def provider(port: int) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/v1/models", _models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def _models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "echo", "object": "model"}]})


@asynccontextmanager
async def server(folder: Path, minutes: float) -> AsyncIterator[Soak]:
    """A server in a process of its own, with three keys."""
    far, port = free_port(), free_port()
    (folder / "headrace.toml").write_text(CONFIG.format(port=far))
    command = [sys.executable, "-m", "headrace", "serve", "--port", str(port), "--admin-key", ADMIN]
    # a cache that is full before a third of the time is over: until then memory grows as it is used
    cache = ["--kv-cache-bytes", "96MiB", "--disk-cache-bytes", "0"]
    command += ["--data", str(folder), *cache, "--log-level", "WARNING"]
    timeout = aiohttp.ClientTimeout(total=300)
    async with (
        provider(far),
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:  # noqa: ASYNC220
            try:
                url = f"http://127.0.0.1:{port}"
                await _ready(http, url, process)
                keys = [await _key(http, url, number) for number in range(3)]
                end = time.monotonic() + 60 * minutes
                yield Soak(url, psutil.Process(process.pid), http, keys, end)
            finally:
                process.terminate()


async def _ready(http: aiohttp.ClientSession, url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            async with http.get(url + "/ready") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("the server ended")


async def _key(http: aiohttp.ClientSession, url: str, number: int) -> str:
    body = {"name": f"soak {number}", "limits": {"tokens_per_minute": 10**7, "concurrent_requests": 50}}
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with http.post(url + "/v1/admin/keys", json=body, headers=headers) as answer:
        return str((await answer.json())["value"])


async def run(minutes: float) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with server(Path(folder), minutes) as soak:
            for kind in WORK:  # everything has been loaded, and pools have their connections
                await WORK[kind](soak, random.Random(0))
            workers = [
                asyncio.create_task(work(soak, kind, 100 * place + number))
                for place, (kind, count) in enumerate(LOADS.items())
                for number in range(count)
            ]
            sizes, descriptors = await _watch(soak, minutes)
            stuck = await _stuck(soak, workers)
            return _verdict(soak, sizes, descriptors, stuck)


async def _watch(soak: Soak, minutes: float) -> tuple[list[int], list[int]]:
    """Memory in bytes, and open descriptors, at the end of each part."""
    print("| minute | resident MiB | descriptors | threads | active | requests | not 200 |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    sizes, descriptors = [], []
    for part in range(1, PARTS + 1):
        await asyncio.sleep(max(0.0, soak.end - time.monotonic() - 60 * minutes * (PARTS - part) / PARTS))
        sizes.append(soak.process.memory_info().rss)
        descriptors.append(soak.process.num_fds())
        total = sum(soak.counts.values())
        failed = sum(count for (_, status), count in soak.counts.items() if status != 200)
        active = await soak.metric("headrace_requests_active")
        print(
            f"| {minutes * part / PARTS:.1f} | {sizes[-1] / 2**20:.0f} | {descriptors[-1]} | "
            f"{soak.process.num_threads()} | {active:.0f} | {total} | {failed} |", flush=True,
        )  # fmt: skip
    return sizes, descriptors


async def _stuck(soak: Soak, workers: list[asyncio.Task[None]]) -> list[str]:
    """What has not ended some time after the load."""
    _, pending = await asyncio.wait(workers, timeout=IDLE_S)
    names = ("headrace_requests_active", "vllm:num_requests_running", "vllm:num_requests_waiting",
             "vllm:kv_cache_usage_perc")  # fmt: skip
    until = time.monotonic() + IDLE_S
    while time.monotonic() < until:
        left = {name: await soak.metric(name) for name in names}
        if not any(left.values()):
            break
        await asyncio.sleep(0.5)
    stuck = [f"{name} = {value:g}" for name, value in left.items() if value]
    return [*stuck, *([f"{len(pending)} clients wait for their answers"] if pending else [])]


def _verdict(soak: Soak, sizes: list[int], descriptors: list[int], stuck: list[str]) -> int:
    third, last = sizes[PARTS // 3], sizes[-1]
    then, now = descriptors[PARTS // 3], soak.process.num_fds()
    print(f"\nMemory at the end: {last / third:.3f} of that at one third (limit {GROWTH}).")
    print(f"Descriptors: {then} at one third, {now} after the load.")
    print(f"Stuck: {', '.join(stuck) or 'nothing'}.")
    for (kind, status), count in sorted(soak.counts.items()):
        print(f"{kind} {status or ''}: {count}")
    is_good = last <= GROWTH * third and now <= then + DESCRIPTORS and not stuck
    print("\nWell." if is_good else "\nNOT WELL.")
    return 0 if is_good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    print(f"{date.today().isoformat()}; {machine(('uvicorn', 'openvino'))}; load: {os.getloadavg()[0]:.1f}\n")
    return asyncio.run(run(arguments.minutes))


if __name__ == "__main__":
    sys.exit(main())
