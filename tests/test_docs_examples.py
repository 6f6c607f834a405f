"""The examples of README.md and of tools.md, structured-output.md and ollama.md under docs/ run as they are
printed, against the default model.
"""

from __future__ import annotations

import json
import subprocess

from tests.pages import blocks, run_python
from tests.serving import Served


def test_first_request_with_the_openai_client(server: Served) -> None:
    names = run_python("../README.md", server.url)
    assert names["answer"].choices[0].message.content


def test_first_request_with_curl(server: Served) -> None:
    commands = blocks("../README.md", "sh", server.url)
    curl = commands[commands.index("curl -N") :].partition("\n\n")[0]
    ran = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.rstrip().endswith("data: [DONE]")


def test_a_required_call(server: Served) -> None:
    (call,) = run_python("tools.md", server.url)["answer"].choices[0].message.tool_calls
    assert call.function.name == "weather"


def test_answers_that_satisfy_a_schema(server: Served) -> None:
    names = run_python("structured-output.md", server.url)
    assert set(json.loads(names["answer"].choices[0].message.content)) <= {"red", "green", "blue"}


def test_a_chat_with_ollamas_client(server: Served) -> None:
    names = run_python("ollama.md", server.url)
    names["client"].close()
    assert names["answer"].message.content


def test_a_prompt_with_curl_in_ollamas_dialect(server: Served) -> None:
    ran = subprocess.run(
        ["bash", "-c", blocks("ollama.md", "sh", server.url)], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["done"] is True
