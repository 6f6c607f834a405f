"""What every client script shares: where the server is, and turns that report themselves.

It runs in the environments of the clients, so it needs nothing but Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from examples import examples

URL = os.environ["HEADRACE_URL"]  # without /v1
BASE_URL = URL + "/v1"
MODEL = os.environ["HEADRACE_MODEL"]
KEY = "none"  # the server has no keys; clients want one all the same
NAME = os.environ.get("HEADRACE_CLIENT", "client")

QUESTION = "What color is the sky? Answer in one word."

Turn = Callable[[], Any]
_turns: list[tuple[str, Turn]] = []


def turn(name: str) -> Callable[[Turn], Turn]:
    """Decorates one turn, plain or async, that asserts what it needs."""

    def register(function: Turn) -> Turn:
        _turns.append((name, function))
        return function

    return register


def run() -> None:
    """All turns in order, then what the documentation shows, each reported on a line of its own; exits with 1
    when one of them failed.
    """
    for code in examples(NAME, "python", URL):
        turn("the example of the documentation")(functools.partial(_run_alone, code))
    runner = asyncio.Runner()  # one loop: clients keep connections that belong to theirs
    with contextlib.closing(runner):  # entered, it would start a loop even for clients without one
        failed = sum(not _passes(name, function, runner) for name, function in _turns)
    sys.exit(1 if failed else 0)


def _run_alone(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def _passes(name: str, function: Turn, runner: asyncio.Runner) -> bool:
    started = time.perf_counter()
    try:
        result = function()
        if inspect.iscoroutine(result):
            runner.run(result)
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print(f"FAILED {NAME}: {name}", flush=True)
        return False
    print(f"ok {NAME}: {name} ({time.perf_counter() - started:.1f} s)", flush=True)
    return True
