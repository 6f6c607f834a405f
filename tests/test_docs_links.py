"""Links in the documents lead to files and headings that exist; the source files that they name exist."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CURRENT = [document for document in DOCUMENTS if document.name != "CHANGELOG.md"]
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
FOLDERS = ("headrace", "docgen", "tests", "bench", "examples", "tools")
ELSEWHERE = ("http://", "https://", "mailto:")
SOURCE = re.compile(r"`([\w/.]+\.py)`")
SOURCES = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def prose(text: str) -> str:
    """A document without its code blocks."""
    return FENCE.sub("", text)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def broken(document: Path, text: str) -> list[str]:
    """The links of a text, as if it stood in `document`, that lead nowhere."""
    return [link for link in LINK.findall(CODE.sub("", prose(text))) if not leads_somewhere(document, link)]


def leads_somewhere(document: Path, link: str) -> bool:
    if link.startswith(ELSEWHERE):
        return True
    path, _, name = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.exists() or ROOT not in (target, *target.parents):
        return False
    return not name or name in map(anchor, HEADING.findall(prose(target.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert broken(document, document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "link", ["no-such-file.md", "README.md#no-such-heading", "#no-such-heading", "../../"]
)
def test_a_broken_link_is_found(link: str) -> None:
    assert broken(ROOT / "README.md", f"Read [this]({link}).") == [link]


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_source_files_exist(document: Path) -> None:
    """A file may be named by the end of its path, as `text/templates.py`."""
    named = SOURCE.findall(document.read_text(encoding="utf-8"))
    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in SOURCES)] == []


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    assert {page for page in (ROOT / "docs").glob("*.md") if page != index} - linked == set()


def test_the_documented_bands_are_those_of_the_contract() -> None:
    contract = ConfigParser()
    contract.read(ROOT / ".importlinter")
    layers = contract["importlinter:contract:bands"]["layers"].split("\n")[1:]
    section = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8").partition("## Bands")[2]
    assert section.split("```")[1].strip().split("\n") == layers
