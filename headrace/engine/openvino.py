"""The OpenVINO runner: turns a stateful IR graph into a paged one and compiles it for the CPU.

The graph is changed twice: the runtime's paged-attention transformation replaces the KV state by block
tables, and a gather before the language-model head selects the rows whose logits are needed (prefill is twice
as fast for it).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from headrace import __version__
from headrace.config.memory import CacheType
from headrace.engine.batch import Batch, one_token
from headrace.engine.fingerprint import add_file
from headrace.errors import ModelError

log = logging.getLogger(__name__)

Ids = NDArray[np.int64] | NDArray[np.int32]

BLOCK_SIZE = 32  # tokens: fixed by the CPU plugin
PROBED = (128, 64, 32)  # sizes of steps, in tokens, that are compared with a step of two
UNLIMITED = 2**31
FEW_ROWS = 64  # of logits in a step, whose memory is kept
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
# A step of 16 sequences is 14 % shorter with a 16-bit cache than with u8 (python -m bench.step).
FAST = {"KV_CACHE_PRECISION": "f16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"}
CACHES: dict[CacheType, dict[str, str]] = {
    "auto": {},
    "bf16": {"KV_CACHE_PRECISION": "f16"},  # the plugin takes bfloat16 where the processor has it
    # Quantized by channel, a block's numbers would depend on how many of its tokens were computed at once.
    "u8": {"KV_CACHE_PRECISION": "u8", "KEY_CACHE_QUANT_MODE": "BY_TOKEN"},
}
SIZED: tuple[CacheType, ...] = ("bf16", "u8")
SCALE_BYTES = 8  # beside each vector of u8 numbers: scale and zero point, float32


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    kv_cache_bytes: int
    max_tokens: int = 2**40  # an upper bound of the cache, in tokens
    kv_cache_dtype: CacheType = "auto"
    exact: bool = False  # compute and cache in float32, as the tests do
    num_threads: int = 0  # 0: one per core
    properties: Mapping[str, str] = field(default_factory=dict)  # the runtime's, applied last; for benchmarks


class OpenVINORunner:
    """A compiled model with its KV cache (see Runner). Loads `folder/openvino_model.xml`; raises ModelError
    if that is not a decoder with a KV cache.
    """

    name, rewinds = "openvino", True
    block_size = BLOCK_SIZE

    def __init__(self, folder: Path, options: RunnerOptions) -> None:
        core = ov.Core()
        model = read(folder)
        _page(model, folder)
        _select_rows(model)
        self.width = model.output("hidden").get_partial_shape()[-1].get_length()
        self.vocabulary = model.output("logits").get_partial_shape()[-1].get_length()
        compiled = core.compile_model(model, "CPU", _properties(options))
        self._compiled, self._request, self._most_rows = compiled, compiled.create_infer_request(), 0
        self._written: dict[str, ov.Tensor] = {}  # the inputs of the last pass
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        caches = [
            port for port in compiled.inputs if port.get_any_name().startswith(("key_cache.", "value_cache."))
        ]
        if not caches:
            raise ModelError(f"{folder} is not a decoder with a KV cache")
        self.block_bytes = sum(_block_bytes(port) for port in caches)
        self.block_bytes_by_type: Mapping[str, int] = {
            name: sum(_block_bytes_under(name, port) for port in caches) for name in SIZED
        }
        self.num_blocks = max(
            2, min(options.kv_cache_bytes // self.block_bytes, -(-options.max_tokens // BLOCK_SIZE))
        )
        self.spare_block = self.num_blocks
        self._tensors: dict[str, ov.Tensor] = {}  # of keys and values, by input
        self._caches = [self._create_cache(port) for port in caches]
        self._set(self._tensors)
        self.max_invariant_tokens = self._find_max_invariant_tokens()
        self.fingerprint = _fingerprint(folder, compiled, options)

    def _create_cache(self, port: ov.ConstOutput) -> NDArray[np.uint8]:
        """Create the tensor of one layer's keys or values. Returns its bytes: [blocks, bytes of a block]."""
        shape = [self.num_blocks + 1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape()]
        tensor = ov.Tensor(port.get_element_type(), ov.Shape(shape))
        self._tensors[port.get_any_name()] = tensor
        cells: NDArray[np.uint8] = tensor.data.reshape(self.num_blocks + 1, -1).view(np.uint8)
        return cells

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        rows = batch.rows if len(batch.rows) else np.zeros(1, np.int64)  # the head needs at least one row
        self._most_rows = max(self._most_rows, len(rows))
        feed: dict[str, Ids] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "past_lens": batch.past_lens,
            "subsequence_begins": batch.subsequence_begins,
            "block_indices": batch.block_indices,
            "block_indices_begins": batch.block_indices_begins,
            "max_context_len": batch.max_context_len,
            "rows": rows,
            "hidden_rows": batch.hidden_rows if len(batch.hidden_rows) else np.zeros(1, np.int64),
        }
        for name, values in feed.items():
            if name in self._inputs:
                self._write(name, values)
        self._request.infer()  # releases the GIL
        logits: NDArray[np.float32] = self._request.get_tensor("logits").data
        return logits.reshape(len(rows), -1)[: len(batch.rows)]

    def _find_max_invariant_tokens(self) -> int:
        """Compare a token's logits in steps of several sizes. Where the processor has no AVX-512, the runtime
        multiplies more than some 80 tokens with another kernel, which sums in another order.
        """
        logits = self.forward(one_token(self.spare_block, copies=2))[0].copy()
        for size in PROBED:
            if np.array_equal(self.forward(one_token(self.spare_block, copies=size))[0], logits):
                return UNLIMITED if size == PROBED[0] else size
        return 2

    def hidden(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._request.get_tensor("hidden").data
        return found.reshape(-1, found.shape[-1])

    def read_block(self, block: int) -> bytes:
        return b"".join(cache[block].data for cache in self._caches)

    def write_block(self, block: int, content: memoryview) -> None:
        for cache in self._caches:
            cache[block] = np.frombuffer(content[: cache.shape[1]], np.uint8)
            content = content[cache.shape[1] :]

    def rest(self) -> None:
        if self._most_rows > FEW_ROWS:
            # A request's outputs never shrink. The runtime frees them once another request has run.
            self._request, self._most_rows = self._compiled.create_infer_request(), 0
            self._written.clear()
            self._set(self._tensors)
            self.forward(one_token(self.spare_block))

    def _write(self, name: str, values: Ids) -> None:
        """Give the request an input: in place where its shape has not changed, seven times as fast."""
        tensor = self._written.get(name)
        if tensor is not None and tensor.data.shape == values.shape:
            tensor.data[...] = values
        else:
            self._written[name] = ov.Tensor(values)
            self._request.set_tensor(name, self._written[name])

    def _set(self, tensors: Mapping[str, ov.Tensor]) -> None:
        for name, tensor in tensors.items():
            self._request.set_tensor(name, tensor)

    def profile(self) -> list[tuple[str, float]]:
        """(type, microseconds) of each operator of the last pass. Needs the property PERF_COUNT=YES."""
        return [
            (info.node_type, info.real_time.total_seconds() * 1e6) for info in self._request.profiling_info
        ]


def read(folder: Path) -> ov.Model:
    """Read the stateful graph of an IR folder. Raises ModelError."""
    path = folder / "openvino_model.xml"
    if not path.is_file():
        raise ModelError(f"{folder} has no openvino_model.xml")
    try:
        return ov.Core().read_model(path)
    except RuntimeError as exc:
        raise ModelError(f"{path} cannot be read: {exc}") from exc


def _properties(options: RunnerOptions) -> dict[str, str]:
    properties = {"PERFORMANCE_HINT": "LATENCY", **(EXACT if options.exact else FAST)}
    properties |= CACHES[options.kv_cache_dtype]
    if options.num_threads:
        properties["INFERENCE_NUM_THREADS"] = str(options.num_threads)
    return {**properties, **options.properties}


def _page(model: ov.Model, folder: Path) -> None:
    try:
        paged_attention_transformation(model)
    except RuntimeError as exc:
        raise ModelError(f"the graph in {folder} cannot be paged: {exc}") from exc


def _select_rows(model: ov.Model) -> None:
    """Insert a gather by the new input `rows` before the head's matrix product, and add the output `hidden`:
    the product's first input, gathered by the new input `hidden_rows`.
    """
    head = find_head(model)
    states, first_axis = head.input_value(0), ops.constant(np.int64(0))
    rows, hidden_rows = _index_input("rows"), _index_input("hidden_rows")
    hidden = ops.result(ops.convert(ops.gather(states, hidden_rows, first_axis), "f32"))
    hidden.input_value(0).set_names({"hidden"})
    head.input(0).replace_source_output(ops.gather(states, rows, first_axis).output(0))
    model.add_parameters([rows, hidden_rows])
    model.add_results([hidden])
    model.validate_nodes_and_infer_types()


def find_head(model: ov.Model) -> ov.Node:
    """The language-model head's matrix product. Its first input is the last hidden states."""
    head = model.get_results()[0].input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    return head


def _index_input(name: str) -> ov.Node:
    rows = ops.parameter([-1], np.int64)
    rows.set_friendly_name(name)
    rows.output(0).set_names({name})
    return rows


def _block_bytes(port: ov.ConstOutput) -> int:
    """Bytes of a block in one layer's keys or values."""
    sizes = [1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape()]
    return int(np.prod(sizes)) * int(port.get_element_type().bitwidth) // 8


def _block_bytes_under(cache_type: CacheType, port: ov.ConstOutput) -> int:
    """What `_block_bytes` would be with numbers of another type."""
    last = int(port.get_partial_shape()[-1].get_length())
    width = last - SCALE_BYTES if port.get_element_type().bitwidth == 8 else last
    num_vectors = _block_bytes(port) * 8 // int(port.get_element_type().bitwidth) // last
    return num_vectors * (width + SCALE_BYTES if cache_type == "u8" else 2 * width)


def _fingerprint(folder: Path, compiled: ov.CompiledModel, options: RunnerOptions) -> bytes:
    """16 bytes that change with the weights and with whatever else may change a bit of a block."""
    core = ov.Core()
    parts = [
        __version__,
        ov.get_version(),
        *(str(core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")),
        str(compiled.get_property("INFERENCE_NUM_THREADS")),
        str(sorted(_properties(options).items())),
        *(f"{port.get_element_type()} {port.get_partial_shape()}" for port in compiled.inputs),
    ]
    digest = blake2b("\0".join(parts).encode(), digest_size=16)
    for name in ("openvino_model.xml", "openvino_model.bin"):
        add_file(digest, folder / name)
    return digest.digest()
