"""Describes a folder with an embedding model: an encoder as ONNX, and its tokenizer."""

from __future__ import annotations

import json
import time
from pathlib import Path

from headrace.encoder_types import Embedding
from headrace.errors import ModelError
from headrace.models.model import ONNX, TOKENIZER, Model
from headrace.models.references import Reference


def describe(folder: Path, reference: Reference, embedding: Embedding) -> Model:
    """Describe the encoder in a folder. Raises ModelError if a file is missing or its tokenizer is none."""
    for name in (ONNX, TOKENIZER):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a complete embedding model: {name} is missing")
    return Model(
        name=reference.name,
        folder=folder,
        reference=reference.text,
        architecture="bert",
        quantization="INT8",
        context_length=embedding.max_tokens,
        vocabulary=_vocabulary(folder / TOKENIZER),
        bos_token_id=None,
        eos_token_ids=(),
        add_bos=False,
        chat_template=None,
        sampling={},
        size_bytes=0,  # counted when the folder is complete
        created=int(time.time()),
        gguf=None,
        embedding=embedding,
    )


def _vocabulary(path: Path) -> int:
    """The number of entries in a tokenizer's vocabulary. Raises ModelError."""
    try:
        return len(json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(f"{path} is not a tokenizer: {str(exc)[:200]}") from exc
