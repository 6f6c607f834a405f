"""Files that cannot be read are told apart, and none is a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter

from headrace.errors import ModelError
from headrace.models.catalog import Cache, prepare
from tests.models.tiny import write_tiny


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        prepare(str(path), Cache(path.parent / "cache"))
    return caught.value.message


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "picture.gguf"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 100)
    assert "is not a GGUF file (it begins with b'\\x89PNG')" in refused(path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.touch()
    assert "is not a GGUF file" in refused(path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 0.9999])
def test_a_truncated_file(share: float, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "cut.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert str(path) in refused(path)


def test_an_unsupported_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mamba.gguf"
    writer = GGUFWriter(path, "mamba")
    writer.add_context_length(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "architecture 'mamba'; the engine reads llama, qwen2, qwen3" in refused(path)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    writer = GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "token_embd.weight" in refused(path)


def test_what_the_runtime_cannot_compute_is_named(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "gemma2")  # type: ignore[arg-type]  # no architecture of ours
    assert "'gemma2', which caps the scores of its attention" in refused(path)
