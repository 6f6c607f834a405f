"""The examples of docs/clients.md, as the client that runs them finds them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
DOCUMENTED_URL = "http://127.0.0.1:8000"
SECTION = re.compile(r"^<!-- run by ([\w ]+) -->\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(client: str, language: str, url: str) -> list[str]:
    """The blocks of that language in the client's section, pointed at `url`."""
    sections = [
        text for names, text in SECTION.findall(PAGE.read_text(encoding="utf-8")) if client in names.split()
    ]
    return [
        code.replace(DOCUMENTED_URL, url)
        for text in sections
        for found, code in BLOCK.findall(text)
        if found == language
    ]
