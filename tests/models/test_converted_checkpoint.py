"""A folder of safetensors becomes a graph in the cache, as a GGUF file does, if our graph computes it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from headrace.config import Config
from headrace.errors import ModelError, UnsupportedModel
from headrace.local import fetched
from headrace.models import convert, safetensors
from headrace.models.catalog import Cache, Model, prepare
from headrace.models.model import no_progress
from tests.engine.plain import PlainModel
from tests.models.checkpoints import write_checkpoint, write_safetensors
from tests.models.tiny import CHATML, TinyShape, write_tiny

TOKENS = [1, 70, 71, 9, 250, 33, 33, 7, 120, 2, 65, 66]


@pytest.fixture
def gguf(tmp_path: Path) -> Model:
    path = write_tiny(tmp_path / "tiny.gguf", "llama", shape=TinyShape(head_dim=16))
    return prepare(str(path), Cache(tmp_path / "cache"))


@pytest.fixture
def folder(gguf: Model, tmp_path: Path) -> Path:
    write_checkpoint(gguf, tmp_path / "folder")
    return tmp_path / "folder"


def change(folder: Path, **members: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | members))


def test_it_is_the_model_of_the_gguf_file(gguf: Model, folder: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    model = prepare(str(folder), cache, runtime="openvino")
    assert (model.architecture, model.quantization, model.is_checkpoint) == ("llama", "F32", False)
    assert (model.vocabulary, model.context_length) == (gguf.vocabulary, gguf.context_length)
    found, expected = (PlainModel(one.folder).logits(TOKENS) for one in (model, gguf))
    assert np.abs(found - expected).max() < 1e-4
    assert prepare(str(folder), cache, runtime="openvino") == model
    assert prepare(str(folder), cache, runtime="torch").is_checkpoint


def test_an_edit_is_noticed(folder: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    first = prepare(str(folder), cache, runtime="openvino")
    change(folder, max_position_embeddings=99)
    os.utime(folder / "config.json", ns=(1, 1 + (folder / "config.json").stat().st_mtime_ns))
    assert prepare(str(folder), cache, runtime="openvino").context_length == 99 != first.context_length


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", "{{ messages[0].content }}"),
        ("generation_config.json", '{"temperature": 0.25}'),
        ("tokenizer_config.json", '{"add_bos_token": true}'),
    ],
)
def test_so_is_one_of_the_files_beside_the_weights(
    name: str, content: str, folder: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    first = prepare(str(folder), cache, runtime="openvino")
    (folder / name).write_text(content)
    second = prepare(str(folder), cache, runtime="openvino")
    seen = [(one.chat_template, one.sampling, one.add_bos) for one in (first, second)]
    assert seen[0] != seen[1]
    assert (second.folder / name).read_text() == content


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.json"])
def test_a_template_in_another_file_is_there_the_second_time_too(
    name: str, folder: Path, tmp_path: Path
) -> None:
    template = folder / "chat_template.jinja"
    (folder / name).write_text(json.dumps({"chat_template": {"default": CHATML, "tool_use": "{{ tools }}"}}))
    template.unlink()
    first, second = (
        prepare(str(folder), Cache(tmp_path / "cache"), runtime="openvino").chat_template for _ in range(2)
    )
    assert first == second
    assert CHATML in str(first)


def test_a_broken_tokenizer_is_named_where_it_is(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelError, match=rf"^{folder}/tokenizer\.json holds no JSON object$"):
        prepare(str(folder), Cache(tmp_path / "cache"), runtime="openvino")


def test_a_head_beside_the_embedding_is_used_even_where_it_should_be_tied(
    folder: Path, tmp_path: Path
) -> None:
    """As transformers does; many configurations leave out the member, or are wrong about it."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.values() for name, tensor in safetensors.tensors(path).items()}
    cache = Cache(tmp_path / "cache")
    plain = PlainModel(prepare(str(folder), cache, runtime="openvino").folder).logits(TOKENS)
    for factor in (1, 2):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * np.float32(factor)
        write_safetensors(path, tensors)
        change(folder, tie_word_embeddings=True, _name_or_path=str(factor))
        model = prepare(str(folder), cache, runtime="openvino")
        assert PlainModel(model.folder).logits(TOKENS) == pytest.approx(factor * plain, rel=1e-3, abs=1e-3)


def test_on_a_cpu_it_is_preferred(folder: Path, tmp_path: Path) -> None:
    config = Config.model_validate({"paths": {"cache": str(tmp_path / "cache")}})
    model = fetched(str(folder), config, no_progress)
    assert isinstance(model, Model)
    assert not model.is_checkpoint


@pytest.mark.parametrize(
    "members",
    [
        {"model_type": "olmo2"},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"hidden_act": "relu"},
        {"novelty": 1},
        {"num_hidden_layers": 3},
        {"vocab_size": 7},
        {"sliding_window": 4, "use_sliding_window": True},
        {"rms_norm_eps": "small"},
        {"rms_norm_eps": None},
        {"rope_theta": 0},
        {"rope_theta": "1e4"},
        {"rope_scaling": "yarn"},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": "4"}},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        {"attention_bias": True},
        {"mlp_bias": True},
    ],
)
def test_what_the_graph_does_not_compute_is_refused(
    members: dict[str, object], folder: Path, tmp_path: Path
) -> None:
    change(folder, **members)
    with pytest.raises(UnsupportedModel):
        prepare(str(folder), Cache(tmp_path / "cache"), runtime="openvino")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
    ],
)
def test_damaged_files_are_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        safetensors.tensors(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        {"dtype": 5, "shape": [2], "data_offsets": [0, 8]},
    ],
)
def test_a_tensor_outside_of_its_file_is_refused(entry: dict[str, object], tmp_path: Path) -> None:
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        safetensors.tensors(path)


def test_numbers_are_exact(tmp_path: Path) -> None:
    values = np.array([1.5, -2.25, 0.0, 3.0], np.float32)
    pieces = {
        "F32": values.tobytes(),
        "F16": values.astype("<f2").tobytes(),
        "BF16": (values.view(np.uint32) >> 16).astype("<u2").tobytes(),
    }
    header, offset = {}, 0
    for kind, raw in pieces.items():
        header[kind] = {"dtype": kind, "shape": [2, 2], "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(pieces.values()))
    for tensor in safetensors.tensors(path).values():
        assert tensor.values().tolist() == values.reshape(2, 2).tolist()


def test_a_bias_that_the_configuration_does_not_have_is_not_added(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.values() for name, tensor in safetensors.tensors(path).items()}
    rows = len(tensors["model.layers.1.self_attn.q_proj.weight"])
    write_safetensors(path, tensors | {"model.layers.1.self_attn.q_proj.bias": np.ones(rows, np.float32)})
    with pytest.raises(UnsupportedModel, match=r"has a bias of layer 1's attn_q; attention_bias is False"):
        prepare(str(folder), Cache(tmp_path / "cache"), runtime="openvino")


def test_a_head_that_is_missing_is_not_taken_from_the_embedding(folder: Path, tmp_path: Path) -> None:
    change(folder, tie_word_embeddings=False)
    with pytest.raises(UnsupportedModel, match=r"no tensor 'lm_head\.weight'"):
        convert.convert_checkpoint(folder, [folder / "model.safetensors"], tmp_path, no_progress)


def test_weights_that_are_no_numbers_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{folder} is damaged: .* has numbers that are infinite, or none"):
        prepare(str(folder), Cache(tmp_path / "cache"), runtime="openvino")
