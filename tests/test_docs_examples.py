"""The examples of README.md, docs/tools.md and docs/structured-output.md run as they are printed, against the
default model.
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
