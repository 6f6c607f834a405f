"""The examples of docs/conversations.md run as they are printed, against the default model."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.pages import blocks, run_python
from tests.serving import Served

PAGE = "conversations.md"


def test_python_examples_run(server: Served, capsys: Any) -> None:
    names = run_python(PAGE, server.url)
    assert [item["type"] for item in names["exported"]["items"]] == ["message"] * 5
    assert capsys.readouterr().out.splitlines()[-1] == "What color is the sky?"


def test_curl_examples_run(server: Served) -> None:
    script = "set -euo pipefail\n" + blocks(PAGE, "sh", server.url)
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count('"object":"list"') == 2
    assert ran.stdout.count('"role":"user"') == 2
