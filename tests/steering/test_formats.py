"""Every format gives the SAE that was written, and refuses what it cannot read exactly."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import TensorSpec, serialize_file

from headrace.errors import SteeringRefused
from headrace.steering.formats.control_vector import read_vector, write_vector
from headrace.steering.formats.detect import read_sae
from headrace.steering.formats.tensors import Found
from headrace.steering.sae import Weights, fold
from headrace.steering.types import Architecture, Normalization
from tests.steering.sae_files import saelens_arrays, saelens_config, write, write_saelens
from tests.steering.synthetic import (
    ARCHITECTURES,
    FEATURES,
    NORMALIZATIONS,
    WIDTH,
    Defined,
    K,
    info_of,
    random_weights,
)

H = (np.random.default_rng(3).standard_normal((20, WIDTH)) * 2).astype(np.float32)


def expect(found: Found, weights: Weights, *, layer: int | None, format: str) -> None:
    assert (found.format, found.layer) == (format, layer)
    read, defined = fold(found.weights, info_of(found.weights)), Defined(weights)
    expected = defined.encode(H.astype(np.float64)) * defined.lengths
    np.testing.assert_allclose(read.encode(H), expected, rtol=1e-4, atol=3e-5)
    whole = defined.decode(defined.encode(H.astype(np.float64)), H.astype(np.float64))
    np.testing.assert_allclose(read.decode(read.encode(H), H), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens(tmp_path: Path, architecture: Architecture, normalization: Normalization) -> None:
    weights = random_weights(architecture, normalization)
    found = read_sae(write_saelens(tmp_path, weights))
    expect(found, weights, layer=1, format="saelens")
    assert found.model_name == "tiny"


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_saelens_before_version_6(tmp_path: Path, kind: Architecture) -> None:
    weights = random_weights(kind)
    config = {
        "d_in": WIDTH, "d_sae": FEATURES, "hook_point": "blocks.2.hook_resid_pre", "model_name": "gpt2-small",
        "activation_fn_str": "relu" if kind == "standard" else "topk",
        "activation_fn_kwargs": {"k": K} if kind == "topk" else {},
        "normalize_activations": "none",
    }  # fmt: skip
    write(tmp_path / "sae_weights.safetensors", saelens_arrays(weights), config)
    expect(read_sae(tmp_path), weights, layer=1, format="saelens")  # before layer 2 is after layer 1


def test_gemma_scope(tmp_path: Path) -> None:
    weights = random_weights("jumprelu", subtracts_bias=False)
    path = tmp_path / "layer_20" / "width_16k" / "average_l0_71" / "params.npz"
    write(path, saelens_arrays(weights))
    expect(read_sae(path), weights, layer=20, format="gemma_scope")
    expect(read_sae(path.parent), weights, layer=20, format="gemma_scope")


def test_gemma_scope_2(tmp_path: Path) -> None:
    weights = random_weights("jumprelu", subtracts_bias=False)
    arrays = {name.lower(): array for name, array in saelens_arrays(weights).items()}
    path = tmp_path / "resid_post" / "layer_17_width_16k" / "params.safetensors"
    config = {"hf_hook_point_in": "model.layers.17.output", "model_name": "gemma-3-1b-it"}
    write(path, arrays, config, "config.json")
    found = read_sae(path.parent)
    expect(found, weights, layer=17, format="gemma_scope_2")
    assert found.model_name == "gemma-3-1b-it"


@pytest.mark.parametrize("folder", ["mlp/layer_3", "transcoders/layer_3", "att_out/layer_3"])
def test_gemma_scope_of_other_places_is_refused(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "params.npz"
    write(path, saelens_arrays(random_weights("jumprelu")))
    with pytest.raises(SteeringRefused, match="hidden states between layers"):
        read_sae(path)


def test_llama_scope(tmp_path: Path) -> None:
    scale = WIDTH**0.5 / 20.0  # its hidden states have an average norm of 20
    weights = random_weights("jumprelu", subtracts_bias=False)
    arrays = {
        "encoder.weight": weights.encoder.T, "encoder.bias": weights.encoder_bias,
        "decoder.weight": weights.decoder.T, "decoder.bias": weights.decoder_bias,
    }  # fmt: skip
    config = {
        "act_fn": "jumprelu", "jump_relu_threshold": 0.3, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 20.0, "out": 20.0},
        "hook_point_in": "blocks.15.hook_resid_post", "sparsity_include_decoder_norm": False,
    }  # fmt: skip
    write(tmp_path / "checkpoints" / "final.safetensors", arrays)
    (tmp_path / "hyperparams.json").write_text(json.dumps(config))
    found = read_sae(tmp_path)
    assert (found.format, found.layer) == ("llama_scope", 15)
    x = H.astype(np.float64) * scale
    z = x @ weights.encoder + weights.encoder_bias
    a = np.where(z > 0.3, z, 0)
    expected = (a @ weights.decoder + weights.decoder_bias) / scale
    read = fold(found.weights, info_of(found.weights))
    np.testing.assert_allclose(read.decode(read.encode(H), H), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "JumpReluAutoEncoder",
                                  "GatedAutoEncoder", "MatryoshkaBatchTopKSAE"])  # fmt: skip
def test_dictionary_learning(tmp_path: Path, kind: str) -> None:
    architecture: dict[str, Architecture] = {
        "AutoEncoder": "standard", "AutoEncoderTopK": "topk", "GatedAutoEncoder": "gated",
    }  # fmt: skip
    weights = random_weights(architecture.get(kind, "jumprelu"), subtracts_bias=kind != "JumpReluAutoEncoder")
    by_name = saelens_arrays(weights)
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        weights = replace(weights, threshold=np.full(FEATURES, 0.2, np.float32))
        by_name = {**by_name, "threshold": np.array(0.2, np.float32)}
    if kind not in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        bias = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}.get(kind, "b_dec")
        renamed = {
            "W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": bias,
            "b_gate": "gate_bias", "b_mag": "mag_bias",
        }  # fmt: skip
        is_linear = ("W_enc", "W_dec")
        by_name = {
            renamed.get(name, name): array.T if name in is_linear else array
            for name, array in by_name.items()
        }
    trainer = {
        "dict_class": kind,
        "k": K,
        "layer": 8,
        "lm_name": "tiny",
        "submodule_name": "resid_post_layer_8",
    }
    write(tmp_path / "ae.safetensors", by_name, {"trainer": trainer}, "config.json")
    expect(read_sae(tmp_path), weights, layer=8, format="dictionary_learning")


def test_sparsify(tmp_path: Path) -> None:
    weights = random_weights("topk")
    arrays = {
        "encoder.weight": weights.encoder.T, "encoder.bias": weights.encoder_bias,
        "W_dec": weights.decoder, "b_dec": weights.decoder_bias,
    }  # fmt: skip
    folder = write(tmp_path / "layers.9" / "sae.safetensors", arrays, {"k": K, "normalize_decoder": False})
    expect(read_sae(folder), weights, layer=9, format="sparsify")


def test_square_weights_are_taken_as_their_format_has_them(tmp_path: Path) -> None:
    """With as many features as numbers, the shape does not tell the orientation."""
    weights = random_weights("topk", width=FEATURES)
    arrays = {
        "encoder.weight": weights.encoder.T, "encoder.bias": weights.encoder_bias,
        "W_dec": weights.decoder, "b_dec": weights.decoder_bias,
    }  # fmt: skip
    folder = write(tmp_path / "layers.9" / "sae.safetensors", arrays, {"k": K})
    found = read_sae(folder).weights
    np.testing.assert_array_equal(found.encoder, weights.encoder)
    np.testing.assert_array_equal(found.decoder, weights.decoder)


def test_bfloat16_and_float16(tmp_path: Path) -> None:
    weights = random_weights("standard")
    arrays = saelens_arrays(weights)
    upper = {name: (array.copy().view(np.uint32) >> 16).astype("<u2") for name, array in arrays.items()}
    write(tmp_path / "sae_weights.safetensors", arrays, saelens_config(weights))
    serialize_file(
        {
            name: TensorSpec(
                dtype="bfloat16",
                shape=list(array.shape),
                data_ptr=array.ctypes.data,
                data_len=array.nbytes,
            )
            for name, array in upper.items()
        },
        str(tmp_path / "sae_weights.safetensors"),
    )
    found = read_sae(tmp_path).weights
    np.testing.assert_allclose(found.encoder, weights.encoder, rtol=2**-7)
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    write(tmp_path / "sae_weights.safetensors", halves)  # type: ignore[arg-type]  # narrower floats
    np.testing.assert_allclose(read_sae(tmp_path).weights.encoder, weights.encoder, rtol=2**-10, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "transcoder"}, "architecture 'transcoder'"),
        ({"normalize_activations": "batch"}, "normalize_activations 'batch'"),
        ({"reshape_activations": "hook_z"}, "attention heads"),
        ({"activation_fn_str": "tanh-relu"}, "activation function 'tanh-relu'"),
        ({"metadata": {"hook_name": "blocks.3.hook_mlp_out"}}, "hook_mlp_out"),
        ({"architecture": "topk"}, "no k"),
    ],
)
def test_saes_that_are_not_understood_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    weights = random_weights("standard")
    write(tmp_path / "sae_weights.safetensors", saelens_arrays(weights), saelens_config(weights) | change)
    with pytest.raises(SteeringRefused, match=message) as caught:
        read_sae(tmp_path)
    assert caught.value.code == "steering_file_refused"


def test_broken_files_are_refused(tmp_path: Path) -> None:
    weights = random_weights("standard")
    arrays = saelens_arrays(weights)
    write(tmp_path / "sae_weights.safetensors", arrays, saelens_config(weights))
    content = (tmp_path / "sae_weights.safetensors").read_bytes()
    for broken in (content[:1000], b"", b"\xff" * 100, content[:-1]):
        (tmp_path / "sae_weights.safetensors").write_bytes(broken)
        with pytest.raises(SteeringRefused):
            read_sae(tmp_path)
    write(tmp_path / "sae_weights.safetensors", {**arrays, "W_dec": arrays["W_dec"][:, :5]})
    with pytest.raises(SteeringRefused, match="shape"):
        read_sae(tmp_path)
    write(tmp_path / "sae_weights.safetensors", {**arrays, "b_enc": np.full(FEATURES, np.nan, np.float32)})
    with pytest.raises(SteeringRefused, match="not finite"):
        read_sae(tmp_path)
    del arrays["W_enc"]
    write(tmp_path / "sae_weights.safetensors", arrays)
    with pytest.raises(SteeringRefused, match="no W_enc"):
        read_sae(tmp_path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "ae.pt").write_bytes(pickle.dumps({"W_enc": 1}))
    for path in (tmp_path / "ae.pt", tmp_path):
        with pytest.raises(SteeringRefused, match="can run code"):
            read_sae(path)
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "params.npz", W_enc=objects)
    with pytest.raises(SteeringRefused, match="no npz file of numbers"):
        read_sae(tmp_path / "params.npz")


def test_control_vectors_come_back(tmp_path: Path) -> None:
    directions = {layer: np.arange(8, dtype=np.float32) + layer for layer in (3, 10, 20)}
    write_vector(tmp_path / "v" / "happy.gguf", directions, model="tiny", name="happy")
    found, model = read_vector(tmp_path / "v" / "happy.gguf")
    assert (list(found), model) == ([3, 10, 20], "tiny")
    for layer, direction in directions.items():
        np.testing.assert_array_equal(found[layer], direction)


def test_what_is_no_control_vector_is_refused(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    (tmp_path / "text.gguf").write_text("hello")
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    for name, message in (("text", "no GGUF file"), ("model", "'llama'"), ("missing", "no such file")):
        with pytest.raises(SteeringRefused, match=message):
            read_vector(tmp_path / f"{name}.gguf")


@pytest.mark.parametrize(
    "members",
    [
        {"architecture": ["topk"]},
        {"architecture": {"name": "topk"}},
        {"apply_b_dec_to_input": "yes"},
        {"normalize_activations": True},
        {"metadata": ["hook_name"]},
        {"metadata": {"hook_name": 7}},
        None,
    ],
    ids=str,
)
def test_a_configuration_that_is_not_understood_is_refused(
    tmp_path: Path, members: dict[str, object] | None
) -> None:
    """Read as the default, it would be another SAE."""
    weights = random_weights("standard")
    config = None if members is None else {**saelens_config(weights), **members}
    folder = write(tmp_path / "sae" / "sae_weights.safetensors", saelens_arrays(weights), config)
    with pytest.raises(SteeringRefused) as caught:
        read_sae(folder)
    assert caught.value.code == "steering_file_refused"


def test_false_is_no_normalization(tmp_path: Path) -> None:
    """SAELens' first versions wrote it."""
    weights = random_weights("standard")
    config = {**saelens_config(weights), "normalize_activations": False}
    folder = write(tmp_path / "sae" / "sae_weights.safetensors", saelens_arrays(weights), config)
    assert read_sae(folder).weights.normalization == "none"


def test_llama_scope_needs_its_threshold(tmp_path: Path) -> None:
    weights = random_weights("standard")
    arrays = {
        "encoder.weight": weights.encoder.T, "encoder.bias": weights.encoder_bias,
        "decoder.weight": weights.decoder.T, "decoder.bias": weights.decoder_bias,
    }  # fmt: skip
    config = {"hook_point_in": "blocks.1.hook_resid_post", "act_fn": "jumprelu"}
    folder = write(tmp_path / "sae" / "final.safetensors", arrays, config, "hyperparams.json")
    with pytest.raises(SteeringRefused, match="jump_relu_threshold"):
        read_sae(folder)
