"""dictionary_learning: `config.json` and `ae.safetensors`. Published `ae.pt` files are pickles, which are not
read; docs/steering.md says how to convert them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headrace.steering.formats.tensors import (
    Found,
    Tensors,
    count,
    layer_of,
    read_json,
    read_tensors,
    refused,
    table,
    text,
)
from headrace.steering.sae import Weights
from headrace.steering.types import Architecture

CONFIG, WEIGHTS = "config.json", "ae.safetensors"
CLASSES: dict[str, Architecture] = {
    "AutoEncoder": "standard",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
}


def read(folder: Path) -> Found:
    """Read a folder. Raises SteeringRefused."""
    path = folder / CONFIG
    trainer = table(read_json(path), "trainer")
    kind = text(trainer, "dict_class") or ""
    if kind not in CLASSES:
        raise refused(path, f"its dict_class {kind!r} is not one of {', '.join(CLASSES)}")
    tensors = read_tensors(folder / WEIGHTS)
    architecture = CLASSES[kind]
    bias = tensors.vector("b_dec", "bias", "decoder_bias")
    width = len(bias)
    features = tensors.get("encoder.weight", "W_enc").size // width
    zeros = np.zeros(features, np.float32)
    is_linear = "encoder.weight" in tensors  # torch's layers hold [out, in]
    weights = Weights(
        encoder=tensors.matrix(width, features, "encoder.weight", "W_enc", transposed=is_linear),
        decoder=tensors.matrix(features, width, "decoder.weight", "W_dec", transposed=is_linear),
        encoder_bias=zeros if architecture == "gated" else tensors.vector("encoder.bias", "b_enc"),
        decoder_bias=bias,
        architecture=architecture,
        threshold=_threshold(tensors, features) if architecture == "jumprelu" else None,
        gate_bias=tensors.vector("gate_bias") if architecture == "gated" else None,
        magnitude_bias=tensors.vector("mag_bias") if architecture == "gated" else None,
        magnitude_scale=tensors.vector("r_mag") if architecture == "gated" else None,
        k=_k(trainer, tensors, path) if architecture == "topk" else None,
        subtracts_bias=kind != "JumpReluAutoEncoder",
    )
    return Found(weights, "dictionary_learning", _layer(trainer, path), text(trainer, "lm_name"))


def _threshold(tensors: Tensors, features: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """BatchTopK has one number for all features."""
    return np.broadcast_to(tensors.vector("threshold"), (features,)).astype(np.float32)


def _k(trainer: Mapping[str, object], tensors: Tensors, path: Path) -> int:
    return count({"k": int(tensors.vector("k")[0])} if "k" in tensors else trainer, "k", path)


def _layer(trainer: Mapping[str, object], path: Path) -> int | None:
    submodule, layer = text(trainer, "submodule_name"), trainer.get("layer")
    if submodule is not None:
        return layer_of(submodule, path)
    return layer if isinstance(layer, int) and not isinstance(layer, bool) else None
