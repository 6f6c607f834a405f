"""The tiny random model on which the engine is driven through many mixes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import openvino as ov
import pytest

from headrace.models.gguf import GGUFFile
from headrace.models.graph import build
from tests.models.tiny import write_tiny


@dataclass(frozen=True, slots=True)
class Files:
    folder: Path
    gguf: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Two random layers in float32, with a head of its own: tied, a random model repeats its last token."""
    folder = tmp_path_factory.mktemp("tiny")
    gguf = write_tiny(folder / "tiny.gguf", tied=False)
    ov.save_model(build(GGUFFile(gguf)), folder / "openvino_model.xml", compress_to_fp16=False)
    return Files(folder, gguf)
