"""An OpenVINO IR folder is used where it is; what it lacks is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headrace.errors import ModelError
from headrace.models.catalog import Cache, prepare
from tests.models.tiny import write_tiny

FILES = (
    "openvino_model.xml",
    "openvino_model.bin",
    "tokenizer.json",
    "config.json",
    "generation_config.json",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as others publish it: without our manifest, the template in tokenizer_config.json."""
    made = prepare(str(write_tiny(tmp_path / "tiny.gguf")), Cache(tmp_path / "made")).folder
    folder = tmp_path / "Published-IR"
    folder.mkdir()
    for file in FILES:
        shutil.copy(made / file, folder)
    write(folder / "tokenizer_config.json", {"chat_template": "{{ messages }}", "add_bos_token": True})
    return folder


def write(path: Path, members: dict[str, object]) -> None:
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(old | members))


def test_it_is_described_in_place(folder: Path, tmp_path: Path) -> None:
    write(folder / "generation_config.json", {"temperature": 0.6, "top_k": 20, "do_sample": True})
    write(folder / "openvino_config.json", {"quantization_config": {"bits": 4}})
    cache = Cache(tmp_path / "cache")
    model = prepare(str(folder), cache)
    assert (model.name, model.folder, model.gguf) == ("published-ir", folder, None)
    assert (model.architecture, model.quantization, model.context_length) == ("llama", "INT4", 512)
    assert (model.bos_token_id, model.eos_token_ids, model.add_bos) == (1, (2, 0), True)
    assert model.chat_template == "{{ messages }}"
    assert model.sampling == {"temperature": 0.6, "top_k": 20}
    assert not cache.root.exists()


@pytest.mark.parametrize("file", FILES[:4])
def test_a_missing_file_is_named_with_its_remedy(file: str, folder: Path, tmp_path: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"{file} is missing; .+"):
        prepare(str(folder), Cache(tmp_path))


def test_an_unreadable_configuration(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        prepare(str(folder), Cache(tmp_path))


def test_a_template_among_several(folder: Path, tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    write(folder / "tokenizer_config.json", {"chat_template": several})
    assert prepare(str(folder), Cache(tmp_path)).chat_template == "d"


def test_the_tokenizers_own_processor_says_whether_a_prompt_begins_with_bos(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "tokenizer_config.json").unlink()
    assert not prepare(str(folder), Cache(tmp_path)).add_bos
    single = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    write(folder / "tokenizer.json", {"post_processor": {"type": "TemplateProcessing", "single": single}})
    assert prepare(str(folder), Cache(tmp_path)).add_bos
