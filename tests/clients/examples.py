"""The examples of docs/clients/, as the client that runs them finds them."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "clients"
DOCUMENTED_URL = "http://127.0.0.1:8000"
SECTION = re.compile(r"^<!-- run by ([\w ]+) -->\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(client: str, language: str, url: str) -> list[str]:
    """The blocks of that language on the client's page, pointed at `url`."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.md"))]
    found = [section for page in pages for section in SECTION.findall(page)]
    sections = [text for names, text in found if client in names.split()]
    return [
        code.replace(DOCUMENTED_URL, url)
        for text in sections
        for kind, code in BLOCK.findall(text)
        if kind == language
    ]
