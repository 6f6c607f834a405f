"""SAELens: `cfg.json` and `sae_weights.safetensors`, read as versions before and after 6.0 write them, and
written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from headrace.steering.formats.tensors import (
    NORMALIZATIONS,
    Found,
    Tensors,
    count,
    flag,
    layer_of,
    read_json,
    read_tensors,
    refused,
    table,
    text,
)
from headrace.steering.sae import Weights
from headrace.steering.train_sae import SAE
from headrace.steering.types import Architecture

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES: dict[str, Architecture] = {
    "standard": "standard",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "gated": "gated",
    # Both are saved with a threshold for each feature.
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}


def read(folder: Path) -> Found:
    """Read a folder. Raises SteeringRefused."""
    path = folder / CONFIG
    config = read_json(path)
    if not config:
        raise refused(path, "it says what the SAE is, and is missing or empty")
    metadata = {**config, **table(config, "metadata")}  # before 6.0 there is no inner object
    tensors = read_tensors(folder / WEIGHTS)
    _check(metadata, path)
    bias = tensors.vector("b_dec")
    architecture = _architecture(metadata, tensors, path)
    width = len(bias)
    features = len(tensors.vector("b_enc", "b_gate"))
    decoder = tensors.matrix(features, width, "W_dec")
    if "scaling_factor" in tensors and flag(metadata, "finetuning_scaling_factor", False):
        decoder = decoder * tensors.vector("scaling_factor")[:, None]
    weights = Weights(
        encoder=tensors.matrix(width, features, "W_enc"),
        decoder=decoder,
        encoder_bias=tensors.vector("b_enc") if "b_enc" in tensors else np.zeros(features, np.float32),
        decoder_bias=bias,
        architecture=architecture,
        threshold=_threshold(tensors) if architecture == "jumprelu" else None,
        gate_bias=tensors.vector("b_gate") if architecture == "gated" else None,
        magnitude_bias=tensors.vector("b_mag") if architecture == "gated" else None,
        magnitude_scale=tensors.vector("r_mag") if architecture == "gated" else None,
        k=_k(metadata, path) if architecture == "topk" else None,
        subtracts_bias=flag(metadata, "apply_b_dec_to_input", True),
        ranks_by_norm=flag(metadata, "rescale_acts_by_decoder_norm", False),
        normalization=NORMALIZATIONS[text(metadata, "normalize_activations") or "none"],
    )
    hook = text(metadata, "hook_name", "hook_point")
    layer = layer_of(hook, path) if hook is not None else None
    return Found(weights, "saelens", layer, text(metadata, "model_name"))


def _check(config: Mapping[str, object], path: Path) -> None:
    """Raise SteeringRefused for what is not an SAE of hidden states, or unknown."""
    if (text(config, "reshape_activations") or "none") != "none" or config.get("hook_head_index") is not None:
        raise refused(path, "it reads single attention heads; SAEs of whole hidden states are served")
    normalization = text(config, "normalize_activations") or "none"
    if normalization not in NORMALIZATIONS:
        raise refused(path, f"its normalize_activations {normalization!r} is not known")
    function = text(config, "activation_fn", "activation_fn_str") or "relu"
    if function not in ("relu", "topk"):
        raise refused(path, f"its activation function {function!r} is not known")


def _architecture(config: Mapping[str, object], tensors: Tensors, path: Path) -> Architecture:
    name = text(config, "architecture") or "standard"
    if name not in ARCHITECTURES:
        raise refused(path, f"its architecture {name!r} is not one of {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    if architecture == "standard" and text(config, "activation_fn", "activation_fn_str") == "topk":
        return "topk"
    is_plain_batch = name == "batchtopk" and "threshold" not in tensors
    if is_plain_batch:
        raise refused(path, "a batchtopk SAE needs its threshold: save it for inference")
    return architecture


def _threshold(tensors: Tensors) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if "log_threshold" in tensors:
        with np.errstate(over="ignore"):  # what is not finite is refused
            return np.exp(tensors.vector("log_threshold"))
    return tensors.vector("threshold")


def _k(config: Mapping[str, object], path: Path) -> int:
    older = table(config, "activation_fn_kwargs")
    return count(config, "k", path) if "k" in config else count(older, "k", path)


def save_sae(
    sae: SAE,
    folder: Path,
    *,
    model: str,
    layer: int,
    prepend_bos: bool,
    half: bool = False,
    notes: Mapping[str, object],
) -> None:
    """Write the autoencoder into `folder`. `half`: in float16, half the size. `notes`: of its training, as
    further metadata.
    """
    kind = np.float16 if half else np.float32
    arrays = {"W_enc": sae.w_enc, "W_dec": sae.w_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(values, kind) for name, values in arrays.items()}, folder / WEIGHTS)
    config = {
        "architecture": "topk",
        "d_in": int(sae.w_enc.shape[0]),
        "d_sae": sae.num_features,
        "k": sae.k,
        "dtype": "float16" if half else "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            "model_name": model,
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "hook_head_index": None,
            "prepend_bos": prepend_bos,
            **notes,
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
