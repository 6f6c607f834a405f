"""Arrays and configurations from files of untrusted origin: safetensors, npz and JSON, never pickles; what a
reader finds in them of one SAE, and how it refuses what it does not understand.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.errors import SteeringRefused
from headrace.steering.sae import Weights
from headrace.steering.types import Normalization

Floats = NDArray[np.float32]
Json = Mapping[str, object]
T = TypeVar("T")

MAX_BYTES = 8 * 2**30  # of a file, and of what an archive unpacks to
LITTLE, MAX_RATIO = 16 * 2**20, 8  # bytes that any archive may unpack to; and times its size (weights: 1.1)
MAX_JSON_BYTES = 2**20
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip
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


def refused(path: Path, problem: str) -> SteeringRefused:
    return SteeringRefused(f"{path.name}: {problem}", code="steering_file_refused", param="path")


class Tensors:
    """The arrays of one file, in float32, by name. One that cannot be read stops only who gets it: files have
    more than an SAE's numbers.
    """

    def __init__(self, path: Path, arrays: Mapping[str, Floats | str]) -> None:
        """`arrays`: or why there is none."""
        self.path, self.arrays = path, arrays

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def get(self, *names: str) -> Floats:
        """The first of these tensors that the file has. Raises SteeringRefused."""
        array = next((self.arrays[name] for name in names if name in self.arrays), None)
        if array is None:
            raise refused(self.path, f"there is no {names[0]}; it has {', '.join(sorted(self.arrays)[:12])}")
        if isinstance(array, str):
            raise refused(self.path, array)
        if not np.isfinite(array).all():
            name = next(name for name in names if name in self.arrays)
            raise refused(self.path, f"{name} has numbers that are not finite")
        return array

    def vector(self, *names: str) -> Floats:
        return self.get(*names).reshape(-1)

    def matrix(self, rows: int, columns: int, *names: str, transposed: bool = False) -> Floats:
        """A matrix of that shape, whichever way round the file has it. `transposed`: how it is expected to be
        where its shape does not show it.
        """
        array = self.get(*names)
        if array.shape == (rows, columns) and not (transposed and rows == columns):
            return array
        if array.shape == (columns, rows):
            return array.T
        raise refused(
            self.path,
            f"{names[0]} has the shape {list(array.shape)}; by the biases it is {rows} by {columns}",
        )


def read_tensors(path: Path) -> Tensors:
    """Read a .safetensors or .npz file. Raises SteeringRefused."""
    if not path.is_file():
        raise refused(path, "there is no such file")
    if path.stat().st_size > MAX_BYTES:
        raise refused(path, f"it is larger than {MAX_BYTES >> 30} GiB")
    return Tensors(path, _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path))


def read_json(path: Path) -> Json:
    """Read a JSON object; {} if there is no file. Raises SteeringRefused."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON_BYTES:
        raise refused(path, "it is larger than a configuration is")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise refused(path, f"it cannot be read: {exc}") from exc
    if not isinstance(content, dict):
        raise refused(path, "it is no JSON object")
    return content


def _read_safetensors(path: Path) -> dict[str, Floats | str]:
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]  # it has no annotations
    except SafetensorError as exc:
        raise refused(path, f"it is no safetensors file: {exc}") from exc
    return {name: _array(name, entry) for name, entry in entries}


def _array(name: str, entry: Mapping[str, object]) -> Floats | str:
    kind, shape, data = str(entry["dtype"]), entry["shape"], entry["data"]
    assert isinstance(shape, list)
    assert isinstance(data, bytes | bytearray | memoryview)
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if kind not in DTYPES:
        return f"{name} has the type {kind}; F64, F32, F16 and BF16 are read"
    with np.errstate(over="ignore"):  # what is too large is not finite then
        return np.frombuffer(data, DTYPES[kind]).reshape(shape).astype(np.float32)


def _read_npz(path: Path) -> dict[str, Floats | str]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > min(MAX_BYTES, LITTLE + MAX_RATIO * path.stat().st_size):
                raise refused(path, f"it unpacks to {unpacked} bytes, too many for its size")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _single(name, np.asarray(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as exc:
        raise refused(path, f"it is no npz file of numbers: {exc}") from exc


def _single(name: str, array: NDArray[np.generic]) -> Floats | str:
    if array.dtype.kind not in "fiub":
        return f"{name} has the type {array.dtype}; real numbers are read"
    with np.errstate(over="ignore"):  # what is too large is not finite then
        return array.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Found:
    """`layer`: whose output it reads; None: the files do not say."""

    weights: Weights
    format: str
    layer: int | None = None
    model_name: str | None = None


def check(weights: Weights, path: Path) -> None:
    """Raise SteeringRefused unless all arrays are of one SAE, which has features."""
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
    numbers = re.findall(pattern, path.as_posix())
    return int(numbers[-1]) if numbers else None


def text(config: Mapping[str, object], *keys: str) -> str | None:
    """The first of these members that is there. Raises ValueError for one that is no text: what it says
    decides how the SAE is computed. False, in files of old versions, says that there is none.
    """
    return next((_of(key, value, str) for key in keys if (value := config.get(key))), None)


def flag(config: Mapping[str, object], key: str, default: bool) -> bool:
    """Raises ValueError for another kind of value."""
    value = config.get(key)
    return default if value is None else _of(key, value, bool)


def _of(key: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"the configuration's {key} is {str(value)[:80]!r}")
    return value


def count(config: Mapping[str, object], key: str, path: Path) -> int:
    """A whole number from 1. Raises SteeringRefused."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise refused(path, f"its configuration has no {key}")
    return value


def number(config: Mapping[str, object], key: str) -> float | None:
    """Raises ValueError for another kind of value."""
    value = config.get(key)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"the configuration's {key} is {str(value)[:80]!r}")


def table(config: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A member that is an object; {} without it. Raises ValueError for another kind of value."""
    value = config.get(key)
    return {} if value is None else _of(key, value, dict)
