"""Folders that are broken are refused, with a reason that names what is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from headrace.engine.torch.load import load_runner
from headrace.engine.torch.options import TorchOptions
from headrace.errors import ModelError
from tests.engine.architectures import random_model
from tests.engine.torch.folders import write_folder

Weights = dict[str, torch.Tensor]
NAME = "model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


def load(folder: Path) -> None:
    load_runner(
        folder, TorchOptions("cpu", "float32"), kv_cache_bytes=2**22, max_model_len=64, max_num_seqs=2
    )


def configure(folder: Path, **members: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **members}))


def change(folder: Path, edit: Callable[[Weights], object]) -> None:
    weights = load_file(folder / NAME)
    edit(weights)
    save_file(weights, folder / NAME, metadata={"format": "pt"})


def as_type(dtype: torch.dtype) -> Callable[[Weights], object]:
    return lambda weights: weights.update({UP: weights[UP].to(dtype)})


WARP = {"rope_type": "warp", "rope_theta": 1e4}
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight is missing": (lambda f: change(f, lambda w: w.pop(UP)), f"have no {UP}"),
    "the head is missing": (lambda f: change(f, lambda w: w.pop("lm_head.weight")), "no lm_head.weight"),
    "another shape": (lambda f: configure(f, vocab_size=200), r"of shape \[300, 64\].* says \[200, 64\]"),
    "no heads": (lambda f: configure(f, num_attention_heads=0), "cannot be read"),
    "an unknown architecture": (lambda f: configure(f, model_type="foo_9"), "foo_9"),
    "eight bits without a scale": (lambda f: change(f, as_type(torch.float8_e4m3fn)), "F8_E4M3, and"),
    "whole numbers without a scale": (lambda f: change(f, as_type(torch.int8)), "I8, and .* quantized"),
    "an unknown quantization": (lambda f: configure(f, quantization_config={"quant_method": "foo"}), "'foo'"),
    "an unknown activation": (lambda f: configure(f, hidden_act="frelu"), "does not know 'frelu'"),
    "an unknown rotation": (lambda f: configure(f, rope_parameters=WARP), "does not know 'warp'"),
    "an empty file": (lambda f: (f / NAME).write_bytes(b""), "cannot be read"),
    "no numbers": (lambda f: change(f, lambda w: w[UP].fill_(float("nan"))), f"'{UP}' in {NAME} has numbers"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(random_model("llama"), tmp_path / "model")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_with_the_reason(name: str, folder: Path) -> None:
    damage, reason = BROKEN[name]
    damage(folder)
    with pytest.raises(ModelError, match=reason):
        load(folder)


def test_a_model_that_no_way_of_running_it_reproduces(tmp_path: Path) -> None:
    """Tokens of PaliGemma's prompt see those after them."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"model_type": "gemma", "vocab_size": 300, "num_key_value_heads": 2, "head_dim": 16, **sizes}
    seeing = {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, **sizes}
    config = PaliGemmaConfig(text_config=text, vision_config=seeing, projection_dim=64, image_token_index=7)
    folder = write_folder(PaliGemmaForConditionalGeneration(config).float(), tmp_path / "model")
    with pytest.raises(ModelError, match="no way to continue a text gives its numbers; not in a"):
        load(folder)


@pytest.mark.parametrize("dtype", ["torch.float32", "bf16", "auto", "float5"])
def test_a_type_that_transformers_does_not_know_changes_nothing(dtype: str, folder: Path) -> None:
    configure(folder, dtype=dtype, torch_dtype=dtype)
    load(folder)


def test_weights_that_are_not_used_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder, lambda weights: weights.update({"model.layers.1.mlp.extra.weight": torch.zeros(3)}))
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert "has what the model does not use: model.layers.1.mlp.extra.weight" in caplog.text
