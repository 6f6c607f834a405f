"""Runs pytest; tests that fail are run once more, alone, and only those that fail again count: `make ci`.

The arguments are pytest's. `--cov-fail-under=PERCENT` is about the first run, whose coverage is that of all
tests. The exit status is 0 only if each test passed in one of the two runs and the coverage is high enough.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(".pytest_cache/twice")
TESTS_FAILED = 1  # pytest's exit status; any other than this and 0 is no test's failure
FAIL_UNDER = "--cov-fail-under="


def pytest(*arguments: str) -> int:
    """Run pytest and return its exit status."""
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={CACHE}", *arguments]
    return subprocess.run(command, check=False).returncode


def failed() -> set[str]:
    """The names of the tests that failed in the last run."""
    file = CACHE / "v" / "cache" / "lastfailed"
    return set(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else set()


def is_covered(percent: str) -> bool:
    """Whether the coverage of the last run with coverage reaches `percent`. Prints why not."""
    command = [sys.executable, "-m", "coverage", "report", "--format=total", f"--fail-under={percent}"]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0


def run(arguments: Sequence[str]) -> list[str]:
    """Run the tests, and those that fail again. Returns what is wrong after that, a line each."""
    limits = [one.removeprefix(FAIL_UNDER) for one in arguments if one.startswith(FAIL_UNDER)]
    first = [one for one in arguments if not one.startswith(FAIL_UNDER)]
    status = pytest("--cache-clear", *first)
    wrong = [f"the coverage is under {percent} %" for percent in limits if not is_covered(percent)]
    if status not in (0, TESTS_FAILED):
        return [f"pytest ended with status {status}", *wrong]
    if status == 0:
        return wrong
    return [*again([one for one in first if not one.startswith("--cov")]), *wrong]


def again(arguments: Sequence[str]) -> list[str]:
    """Run what failed in one process, without coverage. Returns what failed again, a line each."""
    names = failed()
    print(f"\nRunning what failed once more, alone: {len(names)}", flush=True)
    status = pytest("--last-failed", "--last-failed-no-failures=none", *arguments, "--numprocesses=0")
    still = failed()
    for name in sorted(names - still):
        print(f"failed once, passed alone: {name}")
    wrong = [f"failed twice: {name}" for name in sorted(still)]
    return wrong if status in (0, TESTS_FAILED) and bool(status) == bool(wrong) else [
        *wrong, f"pytest ended with status {status}, run again"
    ]  # fmt: skip


def main() -> int:
    wrong = run(sys.argv[1:])
    print("\n".join(wrong or ["all tests passed, at most on the second try"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
