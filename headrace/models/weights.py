"""Turns tensors into graph constants: unchanged where the format allows, else int8 with a scale per 32.

The CPU plugin keeps the pattern Constant int8 → Convert → Multiply(f16 scale) → Reshape → Convert compressed
in memory and multiplies in int8, in groups of the size that its dynamic quantization of activations uses. It
does so with u4 and a zero point, too, which is Q4_0.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import openvino as ov
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from openvino import opset13 as ops

from headrace.errors import ModelError
from headrace.models.hyperparameters import Decoder

GROUP = 32  # weights per scale
EMBEDDING = "token_embd.weight"

F = TypeVar("F", bound=np.floating)
Part = tuple[str, int]  # (tensor, number of heads to deinterleave; 0: none)
Int8 = tuple[NDArray[np.int8], NDArray[np.float16]]


def constant(source: Decoder, *parts: Part, experts: int = 0) -> ov.Output:
    """Stack matrices vertically as a graph output f32[out, in], or those of experts behind each other:
    f32[experts, out, in]. All must have the same storage.
    """
    stored = [_stored(source, name, heads) for name, heads in parts]
    arrays = [np.concatenate(pieces) for pieces in zip(*stored, strict=True)]
    if experts:
        arrays = [whole.reshape(experts, -1, *whole.shape[1:]) for whole in arrays]
    kind = storage(source, parts[0][0])
    if kind in ("int8", "int4"):
        return compressed(arrays[0], arrays[1])
    if kind == "f32":
        return ops.constant(arrays[0]).output(0)
    return _widen(ops.constant(_bfloat16(arrays[0]) if kind == "bf16" else arrays[0]))


def vector(source: Decoder, name: str) -> NDArray[np.float32]:
    """The exact numbers of a norm or a bias. Raises ModelError if one is infinite, or none."""
    return _finite(source, name, source.weight(name))


def storage(source: Decoder, name: str) -> Literal["int8", "int4", "f32", "f16", "bf16"]:
    """The storage of a tensor: its own format if the graph has it, else int8 with scales. Experts of half
    precision are rounded, too: the CPU plugin would hold them in float32, twice as large as their file.
    """
    kind = source.tensor_type(name)
    if kind in (Type.F16, Type.BF16) and _is_of_experts(name) and not source.num_columns(name) % GROUP:
        return "int8"
    if kind == Type.Q4_0 and name != EMBEDDING:  # of which rows are read, too
        return "int4"
    if kind == Type.F32:
        return "f32"
    if kind == Type.BF16:
        return "bf16"
    return "f16" if kind == Type.F16 or source.num_columns(name) % GROUP else "int8"


def _is_of_experts(name: str) -> bool:
    """Whether it is the matrix of one expert, blk.0.ffn_up.7.weight, or of all: blk.0.ffn_up_exps.weight."""
    part = name.split(".")[-2]
    return part.isdecimal() or part.endswith("_exps")


def _stored(source: Decoder, name: str, heads: int) -> list[NDArray]:  # type: ignore[type-arg]  # of several dtypes
    """[int8 values, scales], or [values]. Raises ModelError if one is infinite, or none."""
    kind = storage(source, name)
    with np.errstate(invalid="ignore", over="ignore"):  # what comes of such numbers is refused
        if source.tensor_type(name) == Type.Q8_0:
            pieces: tuple[NDArray, ...] = int8_from_q8_0(source.raw(name))  # type: ignore[type-arg]
        elif source.tensor_type(name) == Type.Q4_0:
            numbers, scale = uint4_from_q4_0(source.raw(name))
            pieces = (numbers if kind == "int4" else numbers.astype(np.int8) - np.int8(8), scale)
        elif kind == "int8":
            pieces = int8(source.weight(name))
        else:
            pieces = (source.weight(name).astype(np.float16 if kind == "f16" else np.float32, copy=False),)
    _finite(source, name, pieces[-1])  # a group with such a number has such a scale
    return [deinterleave(piece, heads) for piece in pieces]


def _finite(source: Decoder, name: str, numbers: NDArray[F]) -> NDArray[F]:
    if not np.isfinite(numbers).all():
        raise ModelError(f"{source.path} is damaged: {name!r} has numbers that are infinite, or none")
    return numbers


def compressed(values: NDArray[np.int8] | NDArray[np.uint8], scale: NDArray[np.float16]) -> ov.Output:
    """Numbers [..., out, groups, GROUP] × float16[..., out, groups, 1] as f32[..., out, in]. The
    numbers are int8, or uint8 from 0 to 15, which stand for those from -8 to 7.
    """
    *rows, groups, size = values.shape
    if values.dtype == np.int8:
        numbers = ops.convert(ops.constant(values), "f16")
    else:
        middle = packed(np.full((1,) * values.ndim, 8, np.uint8))
        numbers = ops.subtract(ops.convert(packed(values), "f16"), ops.convert(middle, "f16"))
    product = ops.multiply(numbers, ops.constant(scale))
    shape = ops.constant(np.array([*rows, groups * size], np.int64))
    return _widen(ops.reshape(product, shape, special_zero=False))


def packed(numbers: NDArray[np.integer]) -> ov.Node:
    """A constant of type u4: two numbers a byte, the first in the lower bits."""
    flat = np.append(numbers.reshape(-1), np.zeros(numbers.size % 2, np.uint8)).astype(np.uint8)
    tensor = ov.Tensor(ov.Type.u4, ov.Shape(list(numbers.shape)))
    tensor.data.reshape(-1)[...] = flat[0::2] | flat[1::2] << 4
    return ops.constant(tensor)


def int8(weight: NDArray[np.float32]) -> Int8:
    """Round to 255 levels per group of 32. The error is at most 1/254 of the group's largest value."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // GROUP, GROUP)
    scale = np.maximum(np.abs(groups).max(2, keepdims=True) / 127, 1e-7).astype(np.float16)
    values = np.clip(np.round(groups / scale.astype(np.float32)), -127, 127)
    return values.astype(np.int8), scale


def int8_from_q8_0(raw: NDArray[np.uint8]) -> Int8:
    """Split Q8_0 blocks, an f16 scale and 32 int8 each, without changing a bit."""
    blocks = np.ascontiguousarray(raw).reshape(raw.shape[0], -1, 2 + GROUP)
    return blocks[:, :, 2:].view(np.int8).copy(), blocks[:, :, :2].copy().view(np.float16)


def uint4_from_q4_0(raw: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Split Q4_0 blocks, an f16 scale and 16 bytes each: the lower halves are the first 16 numbers."""
    blocks = np.ascontiguousarray(raw).reshape(raw.shape[0], -1, 2 + GROUP // 2)
    halves = blocks[:, :, 2:]
    numbers = np.concatenate([halves & 15, halves >> 4], 2)
    return numbers, blocks[:, :, :2].copy().view(np.float16)


def _bfloat16(weight: NDArray[np.float32]) -> ov.Tensor:
    """Convert float32 values that were bfloat16 in the file: the upper half of each is the exact number."""
    tensor = ov.Tensor(ov.Type.bf16, ov.Shape(list(weight.shape)))
    tensor.data.view(np.uint16)[...] = weight.view(np.uint32) >> 16
    return tensor


def deinterleave(rows: NDArray[np.generic], heads: int) -> NDArray:  # type: ignore[type-arg]  # any dtype in, the same out
    """Undo ggml's order of llama's q and k rows, pairs (x0, x_half): our rotation needs the halves apart."""
    if not heads:
        return rows
    count, *rest = rows.shape
    return rows.reshape(heads, count // heads // 2, 2, *rest).swapaxes(1, 2).reshape(rows.shape)


def _widen(node: ov.Node) -> ov.Output:
    return ops.convert(node, "f32").output(0)
