"""Llama Scope: `checkpoints/final.safetensors` beside `hyperparams.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from headrace.steering.formats.tensors import (
    Found,
    count,
    flag,
    layer_in,
    layer_of,
    number,
    read_json,
    read_tensors,
    refused,
    table,
    text,
)
from headrace.steering.sae import Weights

CONFIG, WEIGHTS = "hyperparams.json", "final.safetensors"


def read(path: Path) -> Found:
    """Read the file `final.safetensors`. Raises SteeringRefused."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    config = read_json(folder / CONFIG)
    tensors = read_tensors(path)
    bias = tensors.vector("encoder.bias")
    features = len(bias)
    width = tensors.get("decoder.weight").size // features
    decoder = tensors.matrix(features, width, "decoder.weight", transposed=True)
    has_bias = "decoder.bias" in tensors
    function = text(config, "act_fn") or "jumprelu"
    if function not in ("jumprelu", "topk", "relu"):
        raise refused(path, f"its activation function {function!r} is not known")
    threshold = number(config, "jump_relu_threshold")
    if threshold is None and function == "jumprelu":
        raise refused(folder / CONFIG, "there is no jump_relu_threshold in it")
    weights = Weights(
        encoder=tensors.matrix(width, features, "encoder.weight", transposed=True),
        decoder=decoder,
        encoder_bias=bias,
        decoder_bias=tensors.vector("decoder.bias") if has_bias else np.zeros(width, np.float32),
        architecture="topk" if function == "topk" else "jumprelu",
        threshold=np.full(features, threshold or 0.0, np.float32),
        k=count(config, "top_k", path) if function == "topk" else None,
        subtracts_bias=flag(config, "apply_decoder_bias_to_pre_encoder", False),
        ranks_by_norm=flag(config, "sparsity_include_decoder_norm", False),
    )
    weights = _scaled(_by_norm(weights), config, path)
    hook = text(config, "hook_point_in")
    layer = layer_of(hook, path) if hook is not None else layer_in(path, r"(?:^|/)[Ll](\d{1,4})R")
    return Found(weights, "llama_scope", layer, text(config, "model_name"))


def _by_norm(weights: Weights) -> Weights:
    """With `sparsity_include_decoder_norm`, z · ‖decoder row‖ is compared with the threshold, not z."""
    if not weights.ranks_by_norm or weights.threshold is None:
        return weights
    norms = np.linalg.norm(weights.decoder, axis=1)
    norms[norms == 0] = 1
    return replace(weights, threshold=weights.threshold / norms)


def _scaled(weights: Weights, config: Mapping[str, object], path: Path) -> Weights:
    """Fold the scale of "dataset-wise": hidden states are multiplied by √width / their average norm."""
    normalization = text(config, "norm_activation") or "inference"
    if normalization in ("inference", "none"):
        return weights
    if normalization != "dataset-wise":
        raise refused(path, f"its norm_activation {normalization!r} is not known")
    averages = table(config, "dataset_average_activation_norm")
    norm = number(averages, "in")
    if norm is None or norm <= 0:
        raise refused(path, "its hyperparams.json has no dataset_average_activation_norm")
    scale = np.float32(np.sqrt(weights.decoder.shape[1]) / norm)
    out = np.float32(np.sqrt(weights.decoder.shape[1]) / (number(averages, "out") or norm))
    # The bias that is subtracted is in the scaled units; then z = (s·h - b) @ W = (h - b/s) @ s·W.
    return replace(
        weights,
        encoder=weights.encoder * scale,
        decoder=weights.decoder / out,
        decoder_bias=weights.decoder_bias / out,
    )
