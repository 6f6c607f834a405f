"""Control vectors in GGUF, as llama.cpp and repeng have them: one tensor `direction.N` for each layer, which
is added to the output of layer N.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.steering.formats.tensors import refused

Floats = NDArray[np.float32]

ARCHITECTURE = "controlvector"
MAX_BYTES = 2**30


def read_vector(path: Path) -> tuple[dict[int, Floats], str | None]:
    """The directions by layer, [width] each, and the model's name, if the file has it. Raises
    SteeringRefused.
    """
    from gguf import GGUFReader

    if not path.is_file():
        raise refused(path, "there is no such file")
    if path.stat().st_size > MAX_BYTES:
        raise refused(path, "it is larger than a control vector is")
    try:
        reader = GGUFReader(path)
        kind, hint = _text(reader, "general.architecture"), _text(reader, f"{ARCHITECTURE}.model_hint")
    except Exception as exc:  # the package raises various errors
        raise refused(path, f"it is no GGUF file: {str(exc)[:200]}") from exc
    if kind != ARCHITECTURE:
        raise refused(path, f"it is a GGUF file of {kind!r}, no control vector")
    directions = {}
    for tensor in reader.tensors:
        match = re.fullmatch(r"direction\.(\d{1,4})", tensor.name)
        if match is None:
            continue
        if tensor.tensor_type.name not in ("F32", "F16"):
            raise refused(path, f"{tensor.name} has the type {tensor.tensor_type.name}; F32 and F16 are read")
        directions[int(match[1])] = np.array(tensor.data, np.float32).reshape(-1)
    check_directions(directions, path)
    return dict(sorted(directions.items())), hint


def check_directions(directions: Mapping[int, Floats], path: Path) -> None:
    """Raise SteeringRefused unless there are some, of one width and finite."""
    if not directions:
        raise refused(path, "it has no tensor direction.N")
    if len({len(direction) for direction in directions.values()}) > 1:
        raise refused(path, "its directions are of different widths")
    if not all(np.isfinite(direction).all() for direction in directions.values()):
        raise refused(path, "it has numbers that are not finite")


def write_vector(path: Path, directions: Mapping[int, Floats], *, model: str, name: str = "") -> None:
    """Write directions, [width] by layer, so that llama.cpp and repeng read them, too. Replaces the file."""
    from gguf import GGUFWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    writer = GGUFWriter(partial, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
    if name:
        writer.add_name(name)
    for layer, direction in sorted(directions.items()):
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(direction, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, path)


def _text(reader: object, key: str) -> str | None:
    field = getattr(reader, "fields", {}).get(key)
    return None if field is None else str(field.contents())
