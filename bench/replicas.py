"""Three processes of our engine behind one server: the share of prompt tokens that are cached, with the
choice by affinity and with a choice at random; then one process is killed under load.

    python -m bench.replicas                        # 24 conversations of 5 turns
    python -m bench.replicas --conversations 8 --turns 3

A random choice is the same server with a `prompt_cache_key` of its own for each request. It fails if the
share is not 1.5 times as large, or if a request of the second part is lost or answered otherwise than once.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from bench.processes import cpu_s
from bench.served import Server, served
from headrace.models.catalog import DEFAULT_MODEL

TOPICS = ("rivers", "mills", "mountains", "bridges", "gardens", "clocks", "trains", "islands", "bread")
ANSWER = 48  # tokens
AT_ONCE = 6  # conversations
GAIN = 1.5


@dataclass(slots=True)
class Shares:
    prompt: int = 0
    cached: int = 0

    @property
    def share(self) -> float:
        return self.cached / self.prompt


def converse(url: str, turns: int, is_random: bool, number: int) -> Shares:
    """One conversation, whose beginning nobody else has."""
    system = f"{secrets.token_hex(8)}: you answer questions about {TOPICS[number % len(TOPICS)]}. " * 2
    messages = [{"role": "system", "content": system}]
    shares = Shares()
    with httpx2.Client(base_url=url, timeout=600) as http:
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Question {turn}: what should one know about them?"})
            body: dict[str, Any] = {"model": DEFAULT_MODEL, "messages": messages, "max_tokens": ANSWER}
            if is_random:
                body["prompt_cache_key"] = secrets.token_hex(8)
            answer = http.post("/v1/chat/completions", json=body).raise_for_status().json()
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
            shares.prompt += answer["usage"]["prompt_tokens"]
            shares.cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return shares


def run(server: Server, conversations: int, turns: int, *, is_random: bool) -> Shares:
    before, began = cpu_s(server.process.pid), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = list(threads.map(partial(converse, server.url, turns, is_random), range(conversations)))
    shares = Shares(sum(one.prompt for one in found), sum(one.cached for one in found))
    name = "random" if is_random else "affinity"
    print(
        f"  {name:8s} {shares.share:6.1%} of {shares.prompt} prompt tokens cached, "
        f"{cpu_s(server.process.pid) - before:.1f} s of CPU, {time.monotonic() - began:.1f} s"
    )
    return shares


def ask(url: str, number: int) -> tuple[int, int]:
    """The status and the number of tokens of one request."""
    messages = [{"role": "user", "content": f"{number}: tell me about {TOPICS[number % len(TOPICS)]}."}]
    body = {"model": DEFAULT_MODEL, "messages": messages, "max_tokens": ANSWER, "ignore_eos": True}
    with httpx2.Client(base_url=url, timeout=600) as http:
        answer = http.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.json().get("usage", {}).get("completion_tokens", 0)


def kill_one(server: Server, number: int) -> bool:
    """Kill a process while `number` requests are on their way. Returns whether each was answered, once."""
    line = next(line for line in server.log.read_text().splitlines() if "engine-1 is ready at" in line)
    pid = int(line.split()[-1].rstrip(")"))
    with ThreadPoolExecutor(number) as threads:
        asked = [threads.submit(ask, server.url, one) for one in range(number)]
        time.sleep(1.0)
        os.kill(pid, signal.SIGKILL)
        ends = Counter(one.result() for one in asked)
    moved = server.log.read_text().count("the next replica is tried")
    print(f"  one killed under {number} requests: {dict(ends)} (status, tokens); {moved} moved to another")
    return ends == Counter({(200, ANSWER): number})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--conversations", type=int, default=24)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--processes", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.processes} processes, {options.conversations} conversations of {options.turns} turns")
    with tempfile.TemporaryDirectory() as name:
        flags = ("--processes", str(options.processes), "--kv-cache-bytes", "256MiB", "--no-page")
        with served(Path(name), *flags) as server:
            by_chance = run(server, options.conversations, options.turns, is_random=True)
            by_affinity = run(server, options.conversations, options.turns, is_random=False)
            gain = by_affinity.share / max(by_chance.share, 1e-9)
            print(f"  {gain:.2f} times the share")
            is_whole = kill_one(server, 24)
    return 0 if is_whole and gain >= GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
