"""The examples of a page under docs/, as they are printed, for a server elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
PRINTED = "http://127.0.0.1:8000"


def blocks(page: str, language: str, url: str) -> str:
    """All examples in a language, one after the other."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return "\n".join(found).replace(PRINTED, url)


def run_python(page: str, url: str) -> dict[str, Any]:
    """The names that its examples in Python leave behind."""
    names: dict[str, Any] = {}
    exec(compile(blocks(page, "python", url), page, "exec"), names)  # it is ours
    return names
