"""The graph computes what the papers say: its logits are the NumPy reference's, for each architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader

from headrace.engine.openvino import OpenVINORunner, RunnerOptions
from headrace.errors import ModelError, UnsupportedModel
from headrace.models.catalog import Cache, prepare
from tests.engine.plain import PlainModel
from tests.engine.reference import ReferenceModel
from tests.models.mutated import mutated
from tests.models.test_fidelity import paged_logits
from tests.models.tiny import Architecture, TinyShape, write_tiny

TOKENS = [1, 70, 71, 9, 250, 33, 33, 7, 120, 2, 65, 66]


def error(path: Path, cache: Path) -> float:
    """The largest difference of a logit between the runtime and the reference."""
    model = prepare(str(path), Cache(cache))
    found, expected = PlainModel(model.folder).logits(TOKENS), ReferenceModel(path).logits(TOKENS)
    assert np.abs(expected).max() > 1, "the logits must be worth comparing"
    return float(np.abs(found - expected).max())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "qwen3moe", "smollm3", "granite", "phi3", "gemma3"]
)
def test_the_graph_equals_the_reference(architecture: Architecture, tied: bool, tmp_path: Path) -> None:
    shape = TinyShape(num_layers=5) if architecture == "smollm3" else None
    path = write_tiny(tmp_path / "tiny.gguf", architecture, tied=tied, shape=shape)
    assert error(path, tmp_path) < 1e-3


@pytest.mark.parametrize(("rotary_dim", "window"), [(24, 0), (0, 5), (24, 1)])
def test_a_part_is_rotated_and_a_window_seen(rotary_dim: int, window: int, tmp_path: Path) -> None:
    shape = TinyShape(rotary_dim=rotary_dim, window=window)
    path = write_tiny(tmp_path / "tiny.gguf", "phi3", shape=shape)
    assert error(path, tmp_path) < 1e-3


@pytest.mark.parametrize(
    "shape",
    [
        TinyShape(num_layers=7, window=5),
        TinyShape(num_layers=7, window=5, stretched=8.0),
        TinyShape(num_layers=5, window=5, period=2),
        TinyShape(num_layers=62, hidden=32, feed_forward=32, window=5),  # the shape of 27B, in its layers
        TinyShape(num_layers=2, stretched=4.0),
    ],
)
def test_gemma_3_has_local_and_global_layers(shape: TinyShape, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "gemma3", shape=shape)
    assert error(path, tmp_path) < 1e-3


@pytest.mark.parametrize(
    "keys",
    [
        {"gemma3.attention.sliding_window_pattern": 0},
        {"gemma3.attention.sliding_window_pattern": 1},
        {"gemma3.rope.freq_base_swa": 50.0},
    ],
)
def test_what_a_file_of_gemma_3_may_say(keys: dict[str, object], tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "gemma3", shape=TinyShape(num_layers=3, window=4))
    assert error(mutated(path, tmp_path / "other.gguf", keys), tmp_path) < 1e-3


@pytest.mark.parametrize(
    "keys",
    [
        {"gemma3.attention.sliding_window_pattern": -1},
        {"gemma3.attention.sliding_window_pattern": [True, False, True]},
        {"gemma3.rope.freq_base_swa": -1.0},
        {"gemma3.rope.scaling.factor": float("nan")},
        {"gemma3.rope.scaling.factor": -2.0},
        {"gemma3.rope.scaling.type": "yarn"},
        {"gemma3.final_logit_softcapping": 30.0},
        {"gemma3.attention.head_count": 0},
        {"gemma3.embedding_length": -64},
    ],
)
def test_and_what_it_may_not(keys: dict[str, object], tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "gemma3", shape=TinyShape(num_layers=3, window=4))
    with pytest.raises(UnsupportedModel):
        prepare(str(mutated(path, tmp_path / "other.gguf", keys)), Cache(tmp_path))


@pytest.mark.parametrize("architecture", ["llama", "qwen3moe", "smollm3", "granite", "phi3", "gemma3"])
def test_the_paged_graph_equals_the_plain_one(architecture: Architecture, tmp_path: Path) -> None:
    shape = TinyShape(num_layers=7, window=37 if architecture in ("phi3", "gemma3") else 0)
    path = write_tiny(tmp_path / "tiny.gguf", architecture, shape=shape)
    folder = prepare(str(path), Cache(tmp_path)).folder
    runner = OpenVINORunner(folder, RunnerOptions(16 << 20, exact=True))
    tokens = [1 + (7 * index) % 250 for index in range(150)]
    expected, found = PlainModel(folder).logits(tokens), paged_logits(runner, tokens)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0])
def test_formats_that_fit_are_taken_over_exactly(kind: Type, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "llama", kind=kind)
    assert error(path, tmp_path) < 1e-3


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0])
def test_so_are_those_of_experts(kind: Type, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "qwen3moe", kind=kind)
    assert error(path, tmp_path) < 1e-3


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q4_1])
def test_experts_of_half_precision_are_rounded_as_others_are(kind: Type, tmp_path: Path) -> None:
    """Or they would be held in float32."""
    path = write_tiny(tmp_path / "tiny.gguf", "qwen3moe", kind=kind)
    assert 1e-3 < error(path, tmp_path) < 1


@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_only_the_chosen_experts_compute(kind: Type, tmp_path: Path) -> None:
    """Three products of each layer are of the operation that reads the experts' numbers, which are kept as
    they are stored.
    """
    path = write_tiny(tmp_path / "tiny.gguf", "qwen3moe", kind=kind)
    graph = prepare(str(path), Cache(tmp_path)).folder / "openvino_model.xml"
    stored = "f32" if kind == Type.F32 else "u4" if kind == Type.Q4_0 else "i8"
    made = ov.Core().compile_model(graph, "CPU").get_runtime_model().get_ops()
    products = [op for op in made if op.get_rt_info()["layerType"].value == "GatherMatmul"]
    assert len(products) == 3 * 2
    assert {op.input(1).get_element_type().get_type_name() for op in products} == {stored}


def test_other_formats_are_rounded_to_eight_bits(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "llama", kind=Type.Q4_1)
    assert 1e-3 < error(path, tmp_path) < 1  # of logits that reach 20


def test_rows_that_are_no_multiple_of_a_group_are_kept_in_half_precision(tmp_path: Path) -> None:
    path = write_tiny(
        tmp_path / "tiny.gguf", "qwen2", kind=Type.F16, shape=TinyShape(hidden=48, feed_forward=80)
    )
    assert error(path, tmp_path) < 1e-3


@pytest.mark.parametrize(
    "keys",
    [{"qwen3moe.expert_used_count": 0}, {"qwen3moe.expert_used_count": 7}, {"qwen3moe.expert_count": 5}],
)
def test_numbers_of_experts_that_cannot_be(keys: dict[str, object], tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "qwen3moe")
    with pytest.raises(UnsupportedModel):
        prepare(str(mutated(path, tmp_path / "other.gguf", keys)), Cache(tmp_path))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", ["token_embd.weight", "blk.1.ffn_up.weight", "blk.1.attn_norm.weight"])
def test_weights_that_are_no_numbers_are_refused_by_name(tensor: str, number: float, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "qwen2")
    (found,) = (np.array(each.data) for each in GGUFReader(path).tensors if each.name == tensor)
    found.flat[-1] = number
    spoilt = mutated(path, tmp_path / "spoilt.gguf", tensors={tensor: found})
    with pytest.raises(ModelError, match=rf"spoilt\.gguf is damaged: '{tensor}' has numbers"):
        prepare(str(spoilt), Cache(tmp_path))


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_of_each_format(kind: Type, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", kind=kind)
    content = bytearray(path.read_bytes())
    (found,) = (each for each in GGUFReader(path).tensors if each.name == "blk.0.attn_k.weight")
    # the last number, and the first scale of the last block
    place = found.data_offset + found.n_bytes - {Type.Q8_0: 34, Type.Q4_0: 18, Type.Q4_1: 20}.get(kind, 2)
    content[place : place + 2] = (0x7FC0).to_bytes(2, "little")  # not a number, in both half precisions
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"'blk\.0\.attn_k\.weight' has numbers"):
        prepare(str(path), Cache(tmp_path))


def test_every_head_may_have_its_own_keys(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "qwen3", shape=TinyShape(num_heads=2, num_kv_heads=2))
    assert error(path, tmp_path) < 1e-3
