"""Describes a published OpenVINO IR folder (by optimum and others) from its configuration files."""

from __future__ import annotations

from pathlib import Path

from headrace.errors import ModelError
from headrace.models import published
from headrace.models.model import CONFIG, GRAPH, TOKENIZER, WEIGHTS, Model

NEEDED = {
    GRAPH: "run `optimum-cli export openvino --model ORG/REPO FOLDER`; nor has it any *.safetensors",
    WEIGHTS: f"it belongs beside {GRAPH}: copy it from where that came from",
    TOKENIZER: "copy it from the original model, or let transformers' `save_pretrained` write it",
    CONFIG: "copy it from the original model",
}


def describe(folder: Path, *, name: str, reference: str) -> Model:
    """Describe the model in a folder. Raises ModelError, which names a missing file and how to get it."""
    for file, remedy in NEEDED.items():
        if not (folder / file).is_file():
            raise ModelError(f"{folder} is not a complete IR folder: {file} is missing; {remedy}")
    return published.describe(
        folder,
        name=name,
        reference=reference,
        quantization=_quantization(folder),
        created=(folder / GRAPH).stat().st_mtime,
    )


def _quantization(folder: Path) -> str | None:
    found = published.read(folder / "openvino_config.json").get("quantization_config")
    bits = found.get("bits") if isinstance(found, dict) else None
    return f"INT{bits}" if isinstance(bits, int) else None
