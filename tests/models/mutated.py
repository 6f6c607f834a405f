"""A GGUF file with other metadata and other tensors than the one it is made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

Tensor = NDArray[np.float32]
KINDS: Mapping[type, GGUFValueType] = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
    list: GGUFValueType.ARRAY,
}


def mutated(
    source: Path,
    target: Path,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor | None] | None = None,
) -> Path:
    """Write `target`: the file `source` of float32 tensors, with these metadata keys and tensors replaced;
    None removes one.
    """
    reader = GGUFReader(source)
    old = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    architecture = (keys or {}).get("general.architecture", old["general.architecture"])
    writer = GGUFWriter(target, str(architecture))
    for key, value in {**old, **(keys or {})}.items():
        if value is not None and key != "general.architecture":
            _write(writer, key, value)
    all_tensors: dict[str, Tensor | None] = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    for name, data in {**all_tensors, **(tensors or {})}.items():
        if data is not None:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _write(writer: GGUFWriter, key: str, value: Any) -> None:
    kind = KINDS[type(value)]
    if kind == GGUFValueType.UINT32 and value < 0:
        kind = GGUFValueType.INT32
    if kind == GGUFValueType.UINT32 and value >= 2**32:
        kind = GGUFValueType.UINT64
    if isinstance(value, list) and value and isinstance(value[0], int) and not isinstance(value[0], bool):
        writer.add_key_value(key, value, kind, GGUFValueType.INT32)
    elif value != []:
        writer.add_key_value(key, value, kind)
