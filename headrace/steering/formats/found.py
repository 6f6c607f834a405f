"""What a reader finds in the files of one SAE, and how it refuses what it does not understand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.steering.formats.tensors import refused
from headrace.steering.sae import Weights
from headrace.steering.types import Normalization

# hook names and paths that mean the output of a decoder layer, and the input of one
AFTER = (
    r"blocks\.(\d{1,4})\.hook_resid_post",
    r"(?:model\.|transformer\.|gpt_neox\.)*(?:layers|h|blocks)\.(\d{1,4})(?:\.output)?",
    r"resid_post_layer_(\d{1,4})",
)
BEFORE = (r"blocks\.(\d{1,4})\.hook_resid_pre", r"resid_pre_layer_(\d{1,4})")
NORMALIZATIONS: dict[str, Normalization] = {
    "none": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm_rescale",
    # The scale is part of the weights once training is done, in SAELens' code, too.
    "expected_average_only_in": "none",
}


@dataclass(frozen=True, slots=True)
class Found:
    """`layer`: whose output it reads; None: the files do not say."""

    weights: Weights
    format: str
    layer: int | None = None
    model_name: str | None = None


def check(weights: Weights, path: Path) -> None:
    """Raises SteeringRefused unless all arrays are of one SAE, which has features."""
    features, width = weights.decoder.shape
    if not features or not width:
        raise refused(path, f"it has {features} features of width {width}")
    expected = {
        "encoder": (weights.encoder, (width, features)),
        "encoder bias": (weights.encoder_bias, (features,)),
        "decoder bias": (weights.decoder_bias, (width,)),
        "threshold": (weights.threshold, (features,)),
        "gate's bias": (weights.gate_bias, (features,)),
        "magnitudes' bias": (weights.magnitude_bias, (features,)),
        "magnitudes' scale": (weights.magnitude_scale, (features,)),
    }
    for name, (array, shape) in expected.items():
        if array is None:
            continue
        if array.shape != shape:
            raise refused(
                path, f"its {name} has the shape {list(array.shape)}; by the decoder it is {list(shape)}"
            )
        if not np.isfinite(array).all():
            raise refused(path, f"its {name} has numbers that are not finite")


def layer_of(hook: str, path: Path) -> int:
    """The layer whose output a hook name means. Raises SteeringRefused for other places in the model."""
    for pattern in AFTER:
        if match := re.fullmatch(pattern, hook):
            return int(match[1])
    for pattern in BEFORE:
        if match := re.fullmatch(pattern, hook):
            return int(match[1]) - 1
    raise refused(path, f"it reads {hook[:100]!r}; SAEs of the hidden states between layers are served")


def layer_in(path: Path, pattern: str) -> int | None:
    """The layer that the path's last matching part names."""
    found = re.findall(pattern, path.as_posix())
    return int(found[-1]) if found else None


def text(config: Mapping[str, object], *keys: str) -> str | None:
    """The first of these members that is a text."""
    return next((value for key in keys if isinstance(value := config.get(key), str) and value), None)


def flag(config: Mapping[str, object], key: str, default: bool) -> bool:
    value = config.get(key)
    return value if isinstance(value, bool) else default


def count(config: Mapping[str, object], key: str, path: Path) -> int:
    """A whole number from 1. Raises SteeringRefused."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise refused(path, f"its configuration has no {key}")
    return value


def number(config: Mapping[str, object], key: str) -> float | None:
    value = config.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def table(config: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A member that is an object; {} without it."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}
