"""How a child that runs an engine in process talks to the benchmark: JSON lines, a job in and its answer out.

A job is a list of prompts (token ids), all started at once, a number of tokens that each is continued with,
and the tokens that end it earlier. The answer has for each prompt its counts and the seconds from the job's
start to its first and last token.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

Prompts = list[list[int]]


@dataclass(slots=True)
class Timing:
    """One continued prompt. Times in seconds since the job began."""

    prompt_tokens: int
    completion_tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def count(self, now_s: float, tokens: int = 1) -> None:
        if not self.completion_tokens:
            self.first_s = now_s
        self.completion_tokens += tokens
        self.last_s = now_s


Run = Callable[[Prompts, int, list[int]], list[Timing]]


def serve(load: Callable[[], Run]) -> None:
    """Load, say so, then answer jobs until the input ends."""
    answers = _own_stdout()
    run = load()
    _say(answers, {"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        timings = run(job["prompts"], job["max_tokens"], job["ends"])
        _say(answers, [asdict(timing) for timing in timings])


def _own_stdout() -> int:
    """Libraries print: what they write to standard output goes to standard error from now on."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def _say(descriptor: int, answer: object) -> None:
    with os.fdopen(os.dup(descriptor), "w") as file:
        file.write(json.dumps(answer) + "\n")
