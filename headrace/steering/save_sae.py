"""Writes a trained autoencoder in SAELens' format: `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from headrace.steering.library import FEATURES
from headrace.steering.train_sae import SAE

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


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


def save_features(folder: Path, features: Mapping[str, object]) -> None:
    """Write what is known of the features beside the weights."""
    (folder / FEATURES).write_text(json.dumps(features) + "\n", encoding="utf-8")
