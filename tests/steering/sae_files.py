"""Writes SAEs as their publishers do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from headrace.steering.sae import Weights

Arrays = Mapping[str, NDArray[np.float32]]
SAELENS_NAMES = {"standard": "standard", "jumprelu": "jumprelu", "topk": "topk", "gated": "gated"}


def write(path: Path, arrays: Arrays, config: object | None = None, name: str = "cfg.json") -> Path:
    """Write the tensors into `path`, and the configuration beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its own members
    else:
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
    if config is not None:
        (path.parent / name).write_text(json.dumps(config))
    return path.parent


def saelens_arrays(weights: Weights) -> dict[str, NDArray[np.float32]]:
    arrays = {"W_enc": weights.encoder, "W_dec": weights.decoder, "b_dec": weights.decoder_bias}
    if weights.architecture == "gated":
        assert weights.gate_bias is not None
        assert weights.magnitude_bias is not None
        assert weights.magnitude_scale is not None
        return arrays | {
            "b_gate": weights.gate_bias, "b_mag": weights.magnitude_bias, "r_mag": weights.magnitude_scale
        }  # fmt: skip
    arrays["b_enc"] = weights.encoder_bias
    if weights.threshold is not None:
        arrays["threshold"] = weights.threshold
    return arrays


def saelens_config(weights: Weights, layer: int = 1) -> dict[str, object]:
    """As versions from 6.0 on write it."""
    features, width = weights.decoder.shape
    return {
        "architecture": SAELENS_NAMES[weights.architecture],
        "d_in": width,
        "d_sae": features,
        "dtype": "float32",
        "apply_b_dec_to_input": weights.subtracts_bias,
        "normalize_activations": weights.normalization,
        "reshape_activations": "none",
        **({"k": weights.k, "rescale_acts_by_decoder_norm": weights.ranks_by_norm} if weights.k else {}),
        "metadata": {
            "model_name": "tiny",
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "prepend_bos": True,
        },
    }


def write_saelens(folder: Path, weights: Weights, layer: int = 1) -> Path:
    return write(folder / "sae_weights.safetensors", saelens_arrays(weights), saelens_config(weights, layer))
