"""The description of a model that is ready to load, and its manifest `headrace.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from headrace.encoder_types import Embedding, Layer

GRAPH, WEIGHTS, TOKENIZER, CONFIG = (
    "openvino_model.xml",
    "openvino_model.bin",
    "tokenizer.json",
    "config.json",
)
ONNX = "model.onnx"
TEMPLATE, GENERATION, MANIFEST = "chat_template.jinja", "generation_config.json", "headrace.json"
PHRASES = "phrases.bin"  # answers of the model, for drafts
SHIPPED = Path(__file__).with_name("phrases")  # the same of models that we know, by name
FORMAT = 3  # raise it when the converter's output or the manifest changes: older folders are converted again

Runtime = Literal["openvino", "torch"]  # what computes the forward pass of our engine
Progress = Callable[[str, int, int], None]  # (label, amount done, total; total 0: unknown)
Stamp = dict[str, int]  # of a source file, to notice edits: {"size": …, "mtime_ns": …}


@dataclass(frozen=True, slots=True)
class Model:
    """One model on disk: `folder` holds what the engine loads and the tokenizer."""

    name: str  # its id in the API
    folder: Path
    reference: str
    architecture: str
    quantization: str | None  # of the source, e.g. "Q4_1"; None: not known
    context_length: int
    vocabulary: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool  # a raw prompt begins with bos_token_id
    chat_template: str | None
    sampling: dict[str, float | int]  # recommended temperature, top_p, top_k, min_p where known
    size_bytes: int
    created: int  # seconds since the epoch
    gguf: Path | None  # the file it was made from
    embedding: Embedding | None = None  # set: it embeds texts, and generates none

    @property
    def is_checkpoint(self) -> bool:
        """Whether `folder` has safetensors, for PyTorch, rather than a graph for OpenVINO."""
        return not any((self.folder / name).is_file() for name in (GRAPH, ONNX))

    @property
    def phrases(self) -> Path | None:
        """The file of answers that drafts are taken from: one that was made for this folder, or ours."""
        candidates = (self.folder / PHRASES, SHIPPED / f"{Path(self.name).name}.bin")
        return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a GGUF file of any architecture. 0: not stated."""

    architecture: str
    quantization: str
    context_length: int
    cache_bytes: int  # of the keys and values of one token, in float16
    longest_token: int = 0  # bytes
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """A model that llama.cpp loads from its GGUF file."""

    name: str  # its id in the API
    gguf: Path
    header: Header


def no_progress(label: str, done: int, total: int) -> None:
    """A Progress that does nothing."""


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write_manifest(model: Model, folder: Path, stamp: Stamp | None) -> None:
    """Write the manifest into `folder`, which is moved to `model.folder` later. The chat template is a file
    of its own.
    """
    members = asdict(model) | {"gguf": str(model.gguf) if model.gguf else None}
    del members["folder"], members["chat_template"]
    text = json.dumps({"format": FORMAT, "stamp": stamp, "model": members}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path, stamp: Stamp | None = None) -> Model | None:
    """The model in `folder`; None if there is none, its format is another, or its source has been edited."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    if stamp is not None and manifest["stamp"] != stamp:
        return None
    return _model(folder, manifest["model"])


def write_template(template: str | None, folder: Path) -> None:
    """Write the chat template where `read_template` finds it, wherever the publisher had it."""
    if template:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")


def read_template(folder: Path) -> str | None:
    path = folder / TEMPLATE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _model(folder: Path, members: dict[str, object]) -> Model:
    known: dict[str, object] = {field.name: members.get(field.name) for field in fields(Model)}
    gguf, eos = members["gguf"], members["eos_token_ids"]
    assert isinstance(eos, list)
    known |= {"folder": folder, "chat_template": read_template(folder), "eos_token_ids": tuple(eos)}
    known["gguf"] = Path(gguf) if isinstance(gguf, str) else None
    embedding = members.get("embedding")
    known["embedding"] = _embedding(embedding) if isinstance(embedding, dict) else None
    return Model(**known)  # type: ignore[arg-type]  # written by write_manifest, under the same FORMAT


def _embedding(members: dict[str, object]) -> Embedding:
    layers = members.get("layers")
    assert isinstance(layers, list | None)
    dense = tuple(Layer(**layer) for layer in layers or ())
    return Embedding(**members | {"layers": dense})  # type: ignore[arg-type]  # likewise
