"""Forty hostile requests, one after the other, and how long everybody else waits meanwhile.

    python -m bench.hostile [--systems headrace,xllamacpp,litellm] [--only WORD] [--json FILE]

While each is answered a process of its own asks for the server's health every 10 ms; its longest wait is what
the request costs the others. Resident memory is taken before the first request and after the last.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

if not __package__:  # run as a file: python bench/hostile.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.gateways.install import ROOT, NotAvailable
from bench.gateways.peers import litellm
from bench.gateways.upstream import MODEL, Upstream
from bench.hostile_requests import CHAT, COMPLETIONS, ORDINARY, REQUESTS, Hostile, chat
from bench.machine import free_port, machine
from bench.processes import rss_bytes
from headrace.config import PathsConfig
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare

PERIOD_S, IDLE_S, AFTER_S, REST_S, START_S = 0.01, 2.0, 0.3, 5.0, 120.0
PATIENCE_S, LIMIT_S = 10.0, 240.0  # for a request; for all of a system, after which no more are sent
WARM_S = 60.0  # for a request of ordinary work
MAX_WAIT_MS, MAX_GROWTH = 50.0, 1.10
CACHE, CACHE_TOKENS, PROMPT, STREAMS = "192MiB", 9000, 3000, 32
LENGTHS = range(10, 490, 12)  # tokens of ordinary prompts
KEPT_MIB = 64  # growth that a server may keep in any case: buffers that are used again


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `health`: the path that says that it lives."""

    port: int
    pid: int
    model: str
    health: str = "/health"
    key: str = "x"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status`: None: the connection ended, or no answer came within PATIENCE_S."""

    name: str
    status: int | None
    took_s: float
    wait_ms: float


def main() -> int:
    options = _options()
    chosen = [one for one in REQUESTS if options.only in one.name]
    print(f"{date.today().isoformat()}; {machine(('uvicorn', 'fastapi', 'openvino', 'xllamacpp'))}; "
          f"load before: {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    found: dict[str, list[Outcome]] = {}
    for name in options.systems:
        try:
            with tempfile.TemporaryDirectory() as scratch, STARTS[name](Path(scratch)) as server:
                found[name] = _attacked(name, server, chosen, options.limit)
        except (NotAvailable, TimeoutError) as exc:
            print(f"\n{name}: not available: {exc}")
    if options.json:
        told = {name: [asdict(one) for one in outcomes] for name, outcomes in found.items()}
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0


def _attacked(name: str, server: Server, requests: list[Hostile], limit_s: float) -> list[Outcome]:
    """The table of one system, printed as it grows, and the verdict."""
    asking = Asking(server)
    try:
        _warm(server)
        time.sleep(REST_S)
        idle = asking.longest_ms(lambda: time.sleep(IDLE_S))
        before = rss_bytes(server.pid)
        print(f"\n### {name}\n\nIdle, the longest wait is {idle:.0f} ms.\n")
        print("| request | status | took | longest wait of /health |\n|---|---:|---:|---:|", flush=True)
        outcomes, until = list[Outcome](), time.monotonic() + limit_s
        for request in requests:
            if time.monotonic() < until:
                outcomes.append(_outcome(server, asking, request))
        time.sleep(REST_S)
        _judge(name, outcomes, before, rss_bytes(server.pid))
        return outcomes
    finally:
        asking.close()


def _warm(server: Server) -> None:
    """Do ordinary work of every kind and of the largest size: long prompts that fill the cache, prompts of
    many lengths (the runtime keeps kernels for each number of tokens in a step, see shapes.py), several long
    ones at once, a full batch, and what loads a model or a library at its first use. A server keeps the
    memory for such work in any case.
    """
    for first in range(0, CACHE_TOKENS, PROMPT):
        _send(server, _prompts([PROMPT], first), patience_s=WARM_S)
    for length in LENGTHS:
        _send(server, _prompts([length], length), patience_s=WARM_S)
    _send(server, _prompts([PROMPT] * 8, 20_000), patience_s=WARM_S)
    with ThreadPoolExecutor(STREAMS) as pool:
        short = Hostile("", CHAT, lambda: chat(max_tokens=32))
        list(pool.map(lambda _: _send(server, short, patience_s=WARM_S), range(STREAMS)))
    for request in ORDINARY:
        _send(server, request, patience_s=WARM_S)


def _prompts(lengths: Iterable[int], first: int) -> Hostile:
    """Completions after prompts of so many tokens, which no other prompts begin with."""
    prompts = [[100 + (first + 997 * at + number) % 40_000 for number in range(length)]
               for at, length in enumerate(lengths)]  # fmt: skip
    return Hostile("", COMPLETIONS, lambda: {"prompt": prompts, "max_tokens": 16})


def _outcome(server: Server, asking: Asking, request: Hostile) -> Outcome:
    body = request.body(server.model)
    answered: list[tuple[int | None, float]] = []

    def run() -> None:
        began = time.perf_counter()
        answered.append((_send(server, request, body), time.perf_counter() - began))
        time.sleep(AFTER_S)

    wait_ms = asking.longest_ms(run)
    status, took_s = answered[0]
    outcome = Outcome(request.name, status, took_s, wait_ms)
    print(f"| {outcome.name} | {status or 'none'} | {took_s:.1f} s | {wait_ms:.0f} ms |", flush=True)
    return outcome


def _judge(name: str, outcomes: list[Outcome], before: int, after: int) -> None:
    worst = max(outcomes, key=lambda one: one.wait_ms)
    over = sum(one.wait_ms > MAX_WAIT_MS for one in outcomes)
    unanswered = sum(one.status is None for one in outcomes)
    is_back = after <= max(before * MAX_GROWTH, before + KEPT_MIB * 2**20)
    verdict = "met" if not over and is_back else "not met"
    print(
        f"\n{name}: longest wait {worst.wait_ms:.0f} ms ({worst.name}), {over} of {len(outcomes)} over "
        f"{MAX_WAIT_MS:.0f} ms, {unanswered} without an answer within {PATIENCE_S:.0f} s; memory "
        f"{before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after ({after / before - 1:+.0%}): "
        f"target {verdict}."
    )


def _send(
    server: Server, request: Hostile, body: bytes | None = None, patience_s: float = PATIENCE_S
) -> int | None:
    """The status, after the whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=patience_s)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
    try:
        connection.request("POST", request.path, body or request.body(server.model), headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Asking:
    """A process that asks for a server's health every PERIOD_S while it is told to."""

    def __init__(self, server: Server) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_ask, args=(server, there), daemon=True)
        self._process.start()
        self._here.recv()

    def longest_ms(self, work: Callable[[], None]) -> float:
        """The longest wait during `work`."""
        self._here.send(True)
        work()
        self._here.send(False)
        return float(self._here.recv())

    def close(self) -> None:
        self._process.terminate()
        self._process.join()
        self._here.close()


def _ask(server: Server, orders: Connection) -> None:
    orders.send(True)
    while orders.recv():
        longest = 0.0
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        while not orders.poll():
            began = time.perf_counter()
            try:
                connection.request("GET", server.health)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
            took = time.perf_counter() - began
            longest = max(longest, took)
            time.sleep(max(0.0, PERIOD_S - took))
        connection.close()
        orders.recv()
        orders.send(longest * 1000)


@contextmanager
def _headrace(scratch: Path) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "headrace", "serve", "--port", str(port), "--log-level", "ERROR",
               "--kv-cache-bytes", CACHE, "--disk-cache-bytes", "0"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(scratch)}
    with _process(command, environment, port, "/ready") as pid:
        yield Server(port, pid, DEFAULT_MODEL)


@contextmanager
def _xllamacpp(scratch: Path) -> Iterator[Server]:
    gguf = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache)).gguf
    if gguf is None:
        raise NotAvailable("the model's GGUF file is not kept")
    port = free_port()
    command = [sys.executable, "-m", "bench.children.xllamacpp_server", str(gguf), str(port)]
    with _process(command, {**os.environ, "PYTHONPATH": str(ROOT)}, port, "/health") as pid:
        yield Server(port, pid, gguf.stem)


@contextmanager
def _litellm(scratch: Path) -> Iterator[Server]:
    """Before an upstream that answers at once."""
    started: list[int] = []
    ready = threading.Event()

    async def serve() -> None:
        async with await Upstream().listen() as listening:
            started.append(listening.sockets[0].getsockname()[1])
            ready.set()
            await listening.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    ready.wait()
    peer = litellm("litellm", scratch, started[0])
    environment = {**os.environ, **peer.environment}
    with _process(list(peer.command), environment, peer.address.port, "/health/liveliness") as pid:
        key = peer.address.headers["Authorization"].removeprefix("Bearer ")
        yield Server(peer.address.port, pid, MODEL, "/health/liveliness", key)


@contextmanager
def _process(command: list[str], environment: dict[str, str], port: int, ready: str) -> Iterator[int]:
    """Its pid, once it is ready. Raises TimeoutError."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + START_S
        while not _is_ready(port, ready):
            if time.monotonic() > until or process.poll() is not None:
                raise TimeoutError(f"{command[1:4]} did not get ready")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


STARTS = {"headrace": _headrace, "xllamacpp": _xllamacpp, "litellm": _litellm}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--systems", type=lambda text: text.split(","), default=list(STARTS), metavar="A,B",
        help=f"of {', '.join(STARTS)}",
    )  # fmt: skip
    parser.add_argument("--only", default="", metavar="WORD", help="requests whose names have it")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, metavar="S", help="for each system (%(default)g)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
