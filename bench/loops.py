"""How many answers to plain questions run on without end, how many of them the detection of loops ends, and
how many it cuts that would have ended by themselves.

    python -m bench.loops [--questions 60] [--limit 2048]

Each question is answered greedily, with a seed, so that its tokens do not depend on what else runs: first
without the detection (an answer that reaches the limit has run on), then with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: python bench/loops.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.machine import machine
from bench.same_text import serving
from headrace.config import PathsConfig
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare

AT_ONCE, TIMEOUT_S = 16, 3600
FORMS = (
    "What is {}?",
    "How does {} work?",
    "Write three sentences about {}.",
    "Why is {} important?",
    "List five facts about {}.",
)
SUBJECTS = (
    "rain", "a bicycle", "the moon", "bread", "a volcano", "money", "the heart", "a library", "glass",
    "sleep", "a bridge", "salt", "music", "the sun", "a battery", "tea", "a compass", "snow", "paper",
    "the ocean",
)  # fmt: skip
Answer = tuple[str, int]  # finish reason, and number of tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--questions", type=int, default=60, metavar="N", help="%(default)s, at most 100")
    parser.add_argument("--limit", type=int, default=2048, metavar="TOKENS", help="%(default)s")
    options = parser.parse_args()
    print(machine(("headrace", "openvino")), flush=True)
    pairs = islice(product(SUBJECTS, FORMS), options.questions)
    questions = [form.format(subject) for subject, form in pairs]
    os.environ["REQUEST_TIMEOUT_S"] = "0"  # an answer that runs on takes minutes
    asyncio.run(measure(questions, options.limit))
    return 0


async def measure(questions: list[str], limit: int) -> None:
    model = prepare(DEFAULT_MODEL, Cache(PathsConfig().cache))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_DATA_HOME"] = scratch
        async with serving(model, Path(scratch)) as url:
            plain = await _answers(url, questions, limit, detects=False)
            detected = await _answers(url, questions, limit, detects=True)
    pairs = list(zip(questions, plain, detected, strict=True))
    running_on = [pair for pair in pairs if pair[1][0] == "length"]
    caught = sum(number < limit for _, _, (_, number) in running_on)
    false_alarms = [pair for pair in pairs if pair[1][0] != "length" and pair[2][0] == "length"]
    print(f"{len(questions)} questions, {len(running_on)} answers run on to {limit} tokens")
    print(f"the detection ends {caught} of these {len(running_on)}, and cuts "
          f"{len(false_alarms)} of the {len(questions) - len(running_on)} others")  # fmt: skip
    for question, (reason, number), (_, with_detection) in pairs:
        print(f"{number:6} {reason:6} {with_detection:6} {question}")


async def _answers(url: str, questions: list[str], limit: int, *, detects: bool) -> list[Answer]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asking = [loop.run_in_executor(pool, _answer, url, text, limit, detects) for text in questions]
        return await asyncio.gather(*asking)


def _answer(url: str, question: str, limit: int, detects: bool) -> Answer:
    body: dict[str, Any] = {
        "model": DEFAULT_MODEL, "messages": [{"role": "user", "content": question}],
        "temperature": 0, "seed": 1, "max_tokens": limit, "detect_loops": detects,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        answer = json.load(response)
    return answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]


if __name__ == "__main__":
    sys.exit(main())
