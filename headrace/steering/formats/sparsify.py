"""EleutherAI's sparsify: `layers.N/cfg.json` and `sae.safetensors`: topk SAEs that subtract b_dec from what
they read, whether their decoder is normalized or not.
"""

from __future__ import annotations

from pathlib import Path

from headrace.steering.formats.tensors import (
    Found,
    count,
    flag,
    layer_of,
    read_json,
    read_tensors,
    refused,
    text,
)
from headrace.steering.sae import Weights

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read(folder: Path) -> Found:
    """Read a folder. Raises SteeringRefused."""
    path = folder / CONFIG
    config = read_json(path)
    for key in ("signed", "transcode", "skip_connection"):
        if flag(config, key, False):
            raise refused(path, f"{key} is set; plain SAEs are served")
    if (text(config, "activation") or "topk") != "topk":
        raise refused(path, f"its activation {text(config, 'activation')!r} is not topk")
    tensors = read_tensors(folder / WEIGHTS)
    bias = tensors.vector("b_dec")
    width, features = len(bias), len(tensors.vector("encoder.bias"))
    weights = Weights(
        encoder=tensors.matrix(width, features, "encoder.weight", transposed=True),
        decoder=tensors.matrix(features, width, "W_dec"),
        encoder_bias=tensors.vector("encoder.bias"),
        decoder_bias=bias,
        architecture="topk",
        k=count(config, "k", path),
        subtracts_bias=True,
    )
    layer = layer_of(folder.name, path) if folder.name.startswith("layers.") else None
    return Found(weights, "sparsify", layer)
