"""Gemma Scope (`params.npz`) and Gemma Scope 2 (`config.json` and `params.safetensors`): jumprelu SAEs whose
layer is in the path, or in the configuration.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headrace.steering.formats.tensors import (
    Found,
    layer_in,
    layer_of,
    read_json,
    read_tensors,
    refused,
    text,
)
from headrace.steering.sae import Weights

FILES = ("params.npz", "params.safetensors")
LAYER = r"layer_(\d{1,4})(?!\d)"
# Parts of a path that name other places in the model. A path without them is one of hidden states.
ELSEWHERE = ("transcoder", "crosscoder", "mlp", "att")


def read(path: Path) -> Found:
    """Read a file `params.*`. Raises SteeringRefused."""
    tensors = read_tensors(path)
    bias = tensors.vector("b_dec")
    features, width = len(tensors.vector("b_enc")), len(bias)
    if any(name.startswith(("affine", "w_skip", "W_skip")) for name in tensors.arrays):
        raise refused(path, "it is a transcoder; SAEs of the hidden states between layers are served")
    threshold = tensors.vector("threshold")
    weights = Weights(
        encoder=tensors.matrix(width, features, "w_enc", "W_enc"),
        decoder=tensors.matrix(features, width, "w_dec", "W_dec"),
        encoder_bias=tensors.vector("b_enc"),
        decoder_bias=bias,
        architecture="jumprelu",
        threshold=np.broadcast_to(threshold, (features,)) if len(threshold) == 1 else threshold,
    )
    config = read_json(path.parent / "config.json")
    hook = text(config, "hf_hook_point_in", "hook_point_in", "hook_name")
    layer = layer_of(hook, path) if hook is not None else _layer(path)
    is_second = path.suffix == ".safetensors"
    return Found(weights, "gemma_scope_2" if is_second else "gemma_scope", layer, text(config, "model_name"))


def _layer(path: Path) -> int | None:
    folders = path.as_posix().lower().split("/")[:-1]
    named = next((folder for folder in folders if any(folder.startswith(part) for part in ELSEWHERE)), None)
    if named is not None:
        raise refused(path, f"its folder {named!r} is not of the hidden states between layers")
    return layer_in(path, LAYER)
