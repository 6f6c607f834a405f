"""Each page of docs/clients/ says with which version the client was run, or that it was not; versions that
tests pin are the pinned ones.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "clients").glob("*.md"))
CLIENTS = ROOT / "tests" / "clients"
PINNED = re.compile(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", re.MULTILINE)
VERSION = re.compile(r"([@\w/.-]+) (\d+\.\d+[\d.]*)\b")


def pins() -> set[tuple[str, str]]:
    """(package, version) of all that tests install; several versions of one package are possible."""
    files = [ROOT / "constraints.txt", *(CLIENTS / "requirements").glob("*.txt")]
    found = {pair for file in files for pair in PINNED.findall(file.read_text())}
    for folder in ("node", "node22"):
        found |= json.loads((CLIENTS / folder / "package.json").read_text())["dependencies"].items()
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_was_run(page: Path) -> None:
    last = page.read_text().rstrip().rpartition("\n\n")[2]
    if last.startswith("Not run: "):
        return
    assert last.startswith("Run with ")
    versions = VERSION.findall(last.partition(":")[0])
    assert versions
    if "make test" in last:
        assert set(versions) <= pins()
    index = (ROOT / "docs" / "clients.md").read_text()
    assert f"(clients/{page.name})" in index
