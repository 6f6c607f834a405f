"""Matrices of 4 and of 8 bits on the CPU plugin: milliseconds of a chain of products with random weights, and
its error against float32. It answers whether a file of 4 bits should stay in 4 bits (docs/benchmarks.md).

    python -m bench.four_bits [--megabytes 100] [--shapes 0.5B,1.5B,4B] [--rounds 15]

The kinds take turns. Ratios are of CPU time, taken within a round, and their median is shown: they hold on a
busy machine, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

if not __package__:  # run as a file: python bench/four_bits.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.machine import machine
from headrace.engine.openvino import FAST
from headrace.models.weights import GROUP, compressed, int8, packed

SHAPES = {"0.5B": (896, 4864), "1.5B": (1536, 8960), "4B": (2560, 9728)}  # width, width of the MLP
ROWS = (1, 4, 16, 256)  # tokens in a step
PASSES = 2  # that are timed together


@dataclass(frozen=True, slots=True)
class Weights:
    """A matrix as Q4_1 has it, scale · number + minimum: [out, groups, GROUP] and twice [out, groups, 1]."""

    numbers: NDArray[np.uint8]  # 0 to 15
    scale: NDArray[np.float16]
    minimum: NDArray[np.float16]

    @property
    def floats(self) -> NDArray[np.float32]:
        scale, minimum = self.scale.astype(np.float32), self.minimum.astype(np.float32)
        values: NDArray[np.float32] = self.numbers.astype(np.float32) * scale + minimum
        return values.reshape(len(values), -1)


Product = Callable[[ov.Output, Weights], ov.Output]  # (activations f32[rows, in], weights) → f32[rows, out]


def eight_bits(x: ov.Output, weights: Weights) -> ov.Output:
    """As Headrace converts every format today: int8 with a scale per group."""
    return _matmul(x, compressed(*int8(weights.floats)))


def four_bits(x: ov.Output, weights: Weights) -> ov.Output:
    """u4 with a zero point of 8 for all: exact for Q4_0, whose minimum is −8 scales."""
    return _matmul(x, _unpacked(weights, zero=8))


def four_bits_with_minimums(x: ov.Output, weights: Weights) -> ov.Output:
    """u4 without zero points, and one more product of the minimums with the sums of the activations in each
    group: exact for Q4_1 and Q4_K.
    """
    rows, groups, _ = weights.numbers.shape
    split = ops.reshape(x, _shape(-1, groups, GROUP), special_zero=False)
    sums = ops.reduce_sum(split, ops.constant(np.int64(2)))
    minimum = ops.convert(ops.constant(weights.minimum.reshape(rows, groups)), "f32")
    return ops.add(_matmul(x, _unpacked(weights)), _matmul(sums.output(0), minimum.output(0))).output(0)


def four_bits_rounded(x: ov.Output, weights: Weights) -> ov.Output:
    """u4 with a zero point of 4 bits for each group: what other converters do. Not exact."""
    zero = np.clip(np.round(-weights.minimum.astype(np.float32) / weights.scale), 0, 15).astype(np.uint8)
    return _matmul(x, _unpacked(weights, zeros=zero))


KINDS: dict[str, tuple[Product, bool]] = {  # and whether its weights are symmetric
    "int8": (eight_bits, False),
    "u4 symmetric (Q4_0)": (four_bits, True),
    "u4 + minimums (Q4_1, Q4_K)": (four_bits_with_minimums, False),
    "u4 rounded zero points": (four_bits_rounded, False),
}


def main() -> int:
    options = _options()
    print(f"{machine(('openvino',))}\n")
    for name in options.shapes:
        _compare(name, *SHAPES[name], options.megabytes, options.rounds)
    return 0


def _compare(name: str, width: int, inner: int, megabytes: int, rounds: int) -> None:
    pairs = max(1, round(megabytes * 2**20 / (2 * width * inner)))
    models = {kind: _compile(*KINDS[kind], width, inner, pairs) for kind in KINDS}
    rng = np.random.default_rng(1)
    for rows in ROWS:
        x = rng.standard_normal((rows, width), np.float32)
        spent: dict[str, list[float]] = {kind: [] for kind in models}
        for _ in range(rounds):
            for kind, (request, _) in models.items():
                spent[kind].append(_cpu_s(request, x))
        for kind, (request, expected) in models.items():
            ratio = median(mine / int8 for mine, int8 in zip(spent[kind], spent["int8"], strict=True))
            print(f"{name} x{pairs}, {rows:3} rows, {kind:27} {median(spent[kind]) * 1e3:8.2f} ms"
                  f"  {ratio:5.2f}x int8,  error {_error(request, expected(x)):.4f}", flush=True)  # fmt: skip


def _compile(
    product: Product, is_symmetric: bool, width: int, inner: int, pairs: int
) -> tuple[ov.InferRequest, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """A chain of `pairs` times two matrices, width → inner → width; and the same in NumPy."""
    x = ops.parameter([-1, width], np.float32)
    rng = np.random.default_rng(0)
    chain = [
        _random(rng, *shape, is_symmetric=is_symmetric)
        for _ in range(pairs)
        for shape in ((inner, width), (width, inner))
    ]
    out = x.output(0)
    for weights in chain:
        out = product(out, weights)
    model = ov.Model([ops.result(out)], [x])
    compiled = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", **FAST})

    def expected(values: NDArray[np.float32]) -> NDArray[np.float32]:
        for weights in chain:
            values = values @ weights.floats.T
        return values

    return compiled.create_infer_request(), expected


def _random(rng: np.random.Generator, rows: int, columns: int, *, is_symmetric: bool) -> Weights:
    """Numbers and scales as of a matrix that keeps the size of its input."""
    shape = (rows, columns // GROUP, GROUP)
    scale = (rng.uniform(0.5, 1.5, (*shape[:2], 1)) / 4.6 / columns**0.5).astype(np.float16)
    offset = 8.0 if is_symmetric else rng.uniform(6.5, 8.5, (*shape[:2], 1))
    return Weights(rng.integers(0, 16, shape, np.uint8), scale, (-scale * offset).astype(np.float16))


def _unpacked(
    weights: Weights, *, zero: int | None = None, zeros: NDArray[np.uint8] | None = None
) -> ov.Output:
    """u4 numbers, less a zero point, times scales, as f32[out, in]: the plugin keeps it packed."""
    numbers = ops.convert(packed(weights.numbers), "f16")
    if zeros is not None:
        numbers = ops.subtract(numbers, ops.convert(packed(zeros), "f16"))
    elif zero is not None:
        numbers = ops.subtract(numbers, ops.convert(packed(np.full((1, 1, 1), zero, np.uint8)), "f16"))
    product = ops.multiply(numbers, ops.constant(weights.scale))
    rows, groups, size = weights.numbers.shape
    return ops.convert(ops.reshape(product, _shape(rows, groups * size), special_zero=False), "f32").output(0)


def _matmul(x: ov.Output, matrix: ov.Output) -> ov.Output:
    return ops.matmul(x, matrix, False, True).output(0)


def _shape(*sizes: int) -> ov.Node:
    return ops.constant(np.array(sizes, np.int64))


def _cpu_s(request: ov.InferRequest, x: NDArray[np.float32]) -> float:
    """CPU seconds of a pass, of all threads."""
    request.set_input_tensor(ov.Tensor(x))
    request.infer()
    started = time.process_time()
    for _ in range(PASSES):
        request.infer()
    return (time.process_time() - started) / PASSES


def _error(request: ov.InferRequest, expected: NDArray[np.float32]) -> float:
    """Of the whole chain: the norm of the difference over the norm of the right result."""
    found = request.get_output_tensor().data
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Products with weights of 4 and of 8 bits.")
    parser.add_argument("--megabytes", type=int, default=100, help="of int8 weights in a chain (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=list(SHAPES), metavar="A,B")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
