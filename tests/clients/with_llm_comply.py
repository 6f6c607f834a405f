"""llm-comply, a conformance tester: each of its tests of chat completions, of Open Responses and of
Anthropic's messages is a turn.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from turns import BASE_URL, KEY, MODEL, run, turn

FORMATS = ("openai-chat", "open-responses", "anthropic")
# no model here sees: what cannot be honoured is a 400, not ignored
REFUSED = {"chat-image-input", "image-input", "anth-image-input"}
COMMAND = [
    str(Path(sys.executable).with_name("llm-comply")), "--base-url", BASE_URL, "--model", MODEL,
    "--api-key", KEY, "--timeout", "150", "--json", "--format",
]  # fmt: skip


def results(format: str) -> list[dict[str, Any]]:
    done = subprocess.run([*COMMAND, format], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return found


def check(result: dict[str, Any]) -> None:
    """A test is skipped by llm-comply itself: reasoning, by the name of the model."""
    if result["id"] in REFUSED:
        assert result["errors"][0] == "HTTP 400 (expected [200])", result
    else:
        assert result["status"] in ("passed", "skipped"), result
        assert not result.get("warnings"), result


if __name__ == "__main__":
    for format in FORMATS:
        for entry in results(format):
            turn(entry["id"])(functools.partial(check, entry))
    run()
