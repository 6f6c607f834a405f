"""The examples of docs/conversations.md run as they are printed, against the default model."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from tests.serving import Served

PAGE = Path(__file__).parent.parent / "docs" / "conversations.md"
PRINTED = "http://127.0.0.1:8000"


def blocks(language: str, url: str) -> str:
    """All examples in a language, one after the other, for a server elsewhere."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return "\n".join(found).replace(PRINTED, url)


def test_python_examples_run(server: Served, capsys: Any) -> None:
    names: dict[str, Any] = {}
    exec(compile(blocks("python", server.url), str(PAGE), "exec"), names)  # it is ours
    assert [item["type"] for item in names["exported"]["items"]] == ["message"] * 5
    assert capsys.readouterr().out.splitlines()[-1] == "What color is the sky?"


def test_curl_examples_run(server: Served) -> None:
    script = "set -euo pipefail\n" + blocks("sh", server.url)
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count('"object":"list"') == 2
    assert ran.stdout.count('"role":"user"') == 2
