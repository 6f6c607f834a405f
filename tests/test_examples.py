"""The programs in examples/ run against a real server with the default model, and print what they promise.
examples/provider.py and examples/steering.py have tests of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.serving import Served

EXAMPLES = Path(__file__).parent.parent / "examples"
RUN_S = 120.0


def run(server: Served, name: str, *arguments: str) -> list[str]:
    """The lines that an example prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env={**os.environ, "OPENAI_BASE_URL": server.url + "/v1"},
        capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def line(lines: list[str], start: str) -> str:
    """What follows `start` in the line that begins with it."""
    return next(each for each in lines if each.startswith(start)).removeprefix(start)


def test_chat(server: Served) -> None:
    assert any(run(server, "chat.py", "What color is the sky?"))


def test_streaming(server: Served) -> None:
    lines = run(server, "streaming.py")
    assert line(lines, "Answer: ")
    assert any(each.endswith(" out.") for each in lines)
    assert "Left after 5 chunks." in lines
    counts = dict(each.split() for each in line(lines, "Events: ").split(", "))
    assert (counts["response.created"], int(counts["response.output_text.delta"]) > 0) == ("1", True)


def test_tools(server: Served) -> None:
    lines = run(server, "tools.py")
    assert "'degrees': 4" in line(lines, "get_weather(")
    assert line(lines, "Answer: ")


def test_structured_output(server: Served) -> None:
    lines = run(server, "structured_output.py")
    assert len([each for each in lines if each.startswith("- ")]) in (2, 3, 4)
    assert line(lines, "Choice: ") in ("good", "bad")
    assert [part.isdigit() for part in line(lines, "Date: ").split("-")] == [True] * 3


def test_conversations(server: Served) -> None:
    lines = run(server, "conversations.py")
    assert [each.partition(":")[0] for each in lines if each.startswith(("user:", "assistant:"))] == [
        "user", "assistant", "user", "assistant"
    ]  # fmt: skip
    assert "user: 'My name is Ada.'" in lines
    assert line(lines, "Branch: ")
    assert "Deleted: True" in lines


def test_embeddings_search(server: Served) -> None:
    lines = run(server, "embeddings_search.py")
    assert lines[1].endswith("Plants turn light into sugar.")
    assert line(lines, "Reranked: ") == "Plants turn light into sugar."
    assert run(server, "embeddings_search.py", "how do I bake a loaf?")[1].endswith("and then baked.")
