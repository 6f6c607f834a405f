"""Three copies of the default model with memory for two, under a mixed load: what becomes of the requests,
and how much memory the server takes.

    python -m bench.pool                  # five minutes
    python -m bench.pool --seconds 30

Every request has to end with 200, or with 503 and Retry-After. It fails if one ends otherwise, or if the
memory exceeds the budget by more than a tenth.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from platformdirs import user_cache_path

from bench.processes import pss_bytes
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare

NAMES = ("first", "second", "third")
MIB = 2**20
BUDGET_BYTES = 1000 * MIB  # two models of 440 MiB each, by the server's estimate, and not three
CALLERS = 6
SAMPLED_S = 0.5  # between two looks at the memory
EXCESS = 1.1  # of the budget, at most


@dataclass(slots=True)
class Ends:
    """How requests ended: (model, status) → number; `bad`: those that may not be; `longest_s`: to the end."""

    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, model: str, status: int, problem: str, took_s: float) -> None:
        with self.lock:
            self.counts[model, status] += 1
            self.longest_s = max(self.longest_s, took_s)
            if problem:
                self.bad.append(f"{model}: {problem}")


def copies(folder: Path) -> list[Path]:
    """Folders of the same model under three names."""
    model = prepare(DEFAULT_MODEL, Cache(user_cache_path("headrace", appauthor=False)))
    return [Path(shutil.copytree(model.folder, folder / name)) for name in NAMES]


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [
        sys.executable, "-m", "headrace", "serve", "--port", "0", "--kv-cache-bytes", "64MiB", "--cache",
        str(folder / "cache"), "--data", str(folder / "data"), "--memory-budget", str(BUDGET_BYTES),
        "--disk-cache-bytes", "0", "--embedding-model", "none", *map(str, copies(folder)),
    ]  # fmt: skip
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if line.strip().startswith("url ")), None)
            assert line is not None, log.read_text()
            yield process, line.split()[1].removesuffix("/v1")
        finally:
            process.terminate()


def call(http: httpx2.Client, model: str, rng: random.Random) -> tuple[int, str]:
    """One request. Returns its status, and what is wrong with how it ended, if anything."""
    question = {"role": "user", "content": f"Tell me about the number {rng.randrange(1000)}."}
    is_streamed = rng.random() < 0.5
    body = {"model": model, "messages": [question], "stream": is_streamed, "max_tokens": rng.randrange(4, 64)}
    answer = http.post("/v1/chat/completions", json=body)
    if answer.status_code == 503:
        return 503, "" if "retry-after" in answer.headers else "503 without Retry-After"
    if answer.status_code != 200:
        return answer.status_code, f"{answer.status_code}: {answer.text[:200]}"
    is_whole = answer.text.endswith("data: [DONE]\n\n") and '"error"' not in answer.text
    return 200, "" if not is_streamed or is_whole else f"a broken stream: {answer.text[-200:]}"


def caller(url: str, until: float, ends: Ends, seed: int) -> None:
    rng = random.Random(seed)
    with httpx2.Client(base_url=url, timeout=300) as http:
        while time.monotonic() < until:
            # the models take turns at being the usual one, so that they push each other out of the memory
            usual = NAMES[int(time.monotonic() / 20) % 3]
            model = usual if rng.random() < 0.7 else rng.choice(NAMES)
            began = time.monotonic()
            status, problem = call(http, model, rng)
            ends.add(model, status, problem, time.monotonic() - began)
            time.sleep(rng.random())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "server.log"
        with serving(folder, log) as (process, url):
            ends, most, until = Ends(), 0, time.monotonic() + seconds
            threads = [
                threading.Thread(target=caller, args=(url, until, ends, seed)) for seed in range(CALLERS)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                most = max(most, pss_bytes(process.pid))
                time.sleep(SAMPLED_S)
        text = log.read_text()
    return report(ends, most, text, seconds)


def report(ends: Ends, most: int, log: str, seconds: float) -> int:
    """Print what happened. Returns 1 if anything is as it may not be."""
    loads = [float(took_s) for took_s in re.findall(r"is loaded, after ([\d.]+) s", log)]
    unloads = log.count("is unloaded to make room")
    most_mib, budget_mib = most / MIB, BUDGET_BYTES / MIB
    print(f"{seconds:.0f} s, {CALLERS} callers, {len(NAMES)} models, memory for two")
    for model in NAMES:
        statuses = {status: count for (name, status), count in sorted(ends.counts.items()) if name == model}
        print(f"  {model:8s} {', '.join(f'{count} × {status}' for status, count in statuses.items())}")
    print(
        f"  loads after the start {len(loads)}, which took {sum(loads):.1f} s; unloads {unloads}; "
        f"longest request {ends.longest_s:.1f} s"
    )
    print(f"  memory: at most {most_mib:.0f} MiB, budget {budget_mib:.0f} MiB, {most_mib / budget_mib:.2f}")
    for problem in ends.bad[:20]:
        print(f"  WRONG {problem}")
    is_right = not ends.bad and most <= BUDGET_BYTES * EXCESS and unloads > 0
    print("as it should be" if is_right else "NOT as it should be")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
