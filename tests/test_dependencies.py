"""constraints.txt has all that pyproject.toml asks for, with hashes; private parts of others are bounded."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(text) for text in PROJECT["dependencies"]]
OPTIONAL = [Requirement(text) for texts in EXTRAS.values() for text in texts]
# each entry of the file: name, version, the rest of its first line, its hashes
ENTRY = re.compile(
    r"^([A-Za-z0-9][\w.-]*)==(\S+)([^\n]*)((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\\\)?)*)", re.M
)
PINNED = {
    canonicalize_name(name): (Version(version), hashes.count("--hash"))
    for name, version, _, hashes in ENTRY.findall((ROOT / "constraints.txt").read_text())
}
UNDOCUMENTED = {"aiohttp.client_proto", "aiohttp.connector", "jinja2.nodes", "jinja2.parser", "gguf.quants"}


@pytest.mark.parametrize("requirement", [*DECLARED, *OPTIONAL], ids=str)
def test_what_is_asked_for_is_pinned_with_hashes(requirement: Requirement) -> None:
    version, num_hashes = PINNED[canonicalize_name(requirement.name)]
    assert version in requirement.specifier
    assert num_hashes > 0


def test_everything_is_pinned_with_hashes() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert len(lines) == len(PINNED) > 50
    assert [name for name, (_, count) in PINNED.items() if not count] == []


def test_the_sections_stand_in_the_order_in_which_they_build_on_each_other() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert re.findall(r"^# (\w+)$", text, re.M) == ["serve", "extras", "test", "torch", "bench"]
    served = {canonicalize_name(name) for name, *_ in ENTRY.findall(text.partition("\n# extras\n")[0])}
    assert {canonicalize_name(requirement.name) for requirement in DECLARED} <= served
    assert "setuptools" in served  # `make` builds without an environment of its own
    assert not {"pytest", "mypy", "xllamacpp", "openvino-genai", "redis", "asyncpg"} & served
    extras = {canonicalize_name(name) for name, *_ in ENTRY.findall(text.partition("\n# test\n")[0])} - served
    assert {"redis", "asyncpg", "opentelemetry-sdk"} <= extras
    assert not {"pytest", "mypy", "xllamacpp", "openvino-genai"} & extras


def test_a_windows_machine_gets_what_only_it_needs() -> None:
    rest = {name: rest for name, _, rest, _ in ENTRY.findall((ROOT / "constraints.txt").read_text())}
    assert "win32" in rest["colorama"]
    assert "win32" not in rest["uvloop"]
    assert "linux" in rest["uvloop"]


def private_parts() -> Iterator[str]:
    """Top-level packages of others of which the sources use what is private or not documented."""
    for path in (ROOT / "headrace").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                top, *rest = name.split(".")
                is_private = name in UNDOCUMENTED or any(re.match(r"_[a-z]", part) for part in rest)
                if is_private and top != "headrace":
                    yield top


def test_packages_whose_private_parts_are_used_are_bounded() -> None:
    distributions = metadata.packages_distributions()
    bounded = {
        canonicalize_name(requirement.name)
        for requirement in DECLARED
        if any(part.operator in ("<", "<=", "==", "~=") for part in requirement.specifier)
    }
    used = {canonicalize_name(name) for top in private_parts() for name in distributions.get(top, [])}
    assert {"openvino", "aiohttp", "jinja2", "gguf"} <= used
    assert used <= bounded
    assert {"uvicorn", "starlette", "fastapi"} <= bounded  # their classes are extended
