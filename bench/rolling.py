"""A rolling restart of gateway processes under load: how many requests fail, and how long they take.

    python -m bench.rolling                          # 3 workers, 50 requests a second, one minute
    python -m bench.rolling --seconds 600 --rate 200

The workers are replaced again and again (SIGHUP) until the time is over. It fails if a request does.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import httpx2

from bench.served import Server, served

CONFIG = "[models]\ndefault = ''\n[providers.fa]\nkind = 'fake'\nmodels = ['m']\n"
CHAT = {"model": "fa:m", "messages": [{"role": "user", "content": "hi"}]}
CLIENTS = 10
REPLACED = "all workers are replaced"


@dataclass(slots=True)
class Answers:
    """How long requests took, in seconds, and what was wrong with those that failed."""

    took_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def ask(url: str, every_s: float, until: float, answers: Answers) -> None:
    """Ask every so many seconds, over a connection that is kept while the server keeps it."""
    with httpx2.Client(base_url=url, timeout=60) as http:
        due = time.monotonic()
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            try:
                answer = http.post(
                    "/v1/chat/completions", json={**CHAT, "stream": len(answers.took_s) % 2 == 0}
                )
                if answer.status_code != 200 or "world" not in answer.text:
                    answers.failures.append(f"{answer.status_code} {answer.text[:200]}")
            except httpx2.HTTPError as exc:
                answers.failures.append(repr(exc))
            answers.took_s.append(time.monotonic() - began)
            due += every_s


def replace_until(server: Server, until: float) -> int:
    """Replace the workers again and again. Returns how often."""
    number = 0
    while time.monotonic() < until:
        server.process.send_signal(signal.SIGHUP)
        number += 1
        while server.log.read_text().count(REPLACED) < number and time.monotonic() < until:
            time.sleep(0.1)
    return server.log.read_text().count(REPLACED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    answers = Answers()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "headrace.toml").write_text(CONFIG)
        with served(Path(name), "--workers", str(options.workers), "--log-level", "INFO") as server:
            until = time.monotonic() + options.seconds
            every_s = CLIENTS / options.rate
            threads = [
                threading.Thread(target=ask, args=(server.url, every_s, until, answers))
                for _ in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            number = replace_until(server, until)
            for thread in threads:
                thread.join()
    half, p99 = (1000 * quantiles(answers.took_s, n=100)[at] for at in (49, 98))
    print(
        f"{options.workers} workers, {options.rate:g} requests/s, {options.seconds:g} s, replaced {number} ×"
    )
    number_of = f"{len(answers.took_s)} requests, {len(answers.failures)} failed"
    print(f"  {number_of}, median {half:.0f} ms, p99 {p99:.0f} ms")
    for failure in answers.failures[:10]:
        print(f"  {failure}")
    return 1 if answers.failures or not number else 0


if __name__ == "__main__":
    sys.exit(main())
