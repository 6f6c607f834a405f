"""The OpenVINO runner: turns a stateful IR graph into a paged one and compiles it for the CPU.

The graph is changed twice: the runtime's paged-attention transformation replaces the KV state by block
tables, and a gather before the language-model head selects the rows whose logits are needed (prefill is twice
as fast for it).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from headrace import __version__
from headrace.config.memory import CacheType
from headrace.engine.batch import Batch, one_token
from headrace.engine.compiled import Compiled, limited
from headrace.engine.runner import add_file
from headrace.engine.sites import NO_EDITS, NO_ROWS, SiteInputs, add_sites
from headrace.errors import ModelError
from headrace.steering.slot import SiteNeeds

log = logging.getLogger(__name__)

Ids = NDArray[np.int64] | NDArray[np.int32]
Sites = Mapping[int, SiteNeeds]
C = TypeVar("C", bound=Compiled)

BLOCK_SIZE = 32  # tokens: fixed by the CPU plugin
# Sizes of steps, in tokens, that are compared with one of the size between them.
SMALL, MEDIUM, LARGE = (16, 8, 4, 2), 32, (128, 64)
UNLIMITED = 2**31
PAGED, KEYS, WINDOW = "PagedAttentionExtension", 3, 10  # the operation, and two of its inputs
WINDOWS = ("headrace", "windows")  # as headrace/models/graph.py writes it
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


def _accept(_: float) -> None:
    """Any size of the cache will do."""


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    kv_cache_bytes: int
    max_tokens: int = 2**40  # an upper bound of the cache, in tokens
    kv_cache_dtype: CacheType = "auto"
    exact: bool = False  # compute and cache in float32, as the tests do
    num_threads: int = 0  # 0: one per core
    max_num_seqs: int = 32  # that may decode in one step
    properties: Mapping[str, str] = field(default_factory=dict)  # the runtime's, applied last; for benchmarks
    # called with the bytes of one cached token before the graph is compiled; what it raises ends the loading
    check: Callable[[float], None] = _accept


class OpenVINORunner:
    """A compiled model with its KV cache (see Runner). Loads `folder/openvino_model.xml`; raises ModelError
    if that is not a decoder with a KV cache.
    """

    name, rewinds, rounds_apart = "openvino", True, False
    block_size = BLOCK_SIZE

    def __init__(self, folder: Path, options: RunnerOptions) -> None:
        self._folder, self._options = folder, options
        plain = self._compile({}, Compiled)
        self._plain = self._latest = plain
        self._steered: SteeredGraph | None = None  # while layers are editable
        ports = plain.compiled.inputs
        caches = [port for port in ports if port.get_any_name().startswith(("key_cache.", "value_cache."))]
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
        plain.share(self._tensors)
        self.num_layers = len(caches) // 2
        self.min_invariant_tokens, self.max_invariant_tokens = self._find_invariant_sizes()
        self.fingerprint = _fingerprint(folder, plain.compiled, options)

    def _compile(self, sites: Sites, kind: Callable[[ov.Model, ov.Core, Mapping[str, str]], C]) -> C:
        """Read, page and compile the graph, with these sites."""
        core = ov.Core()
        model = read(self._folder)
        self._options.check(token_bytes(model, self._options))
        _page(model, self._folder)
        head = _select_rows(model)
        add_sites(model, head, sites)
        self.width = model.output("hidden").get_partial_shape()[-1].get_length()
        self.vocabulary = model.output("logits").get_partial_shape()[-1].get_length()
        return kind(model, core, _properties(self._options))

    def _create_cache(self, port: ov.ConstOutput) -> NDArray[np.uint8]:
        """Create the tensor of one layer's keys or values. Returns its bytes: [blocks, bytes of a block]."""
        shape = [self.num_blocks + 1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape()]
        tensor = ov.Tensor(port.get_element_type(), ov.Shape(shape))
        self._tensors[port.get_any_name()] = tensor
        cells: NDArray[np.uint8] = tensor.data.reshape(self.num_blocks + 1, -1).view(np.uint8)
        return cells

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        graph = self._graph_for(batch)
        rows = batch.rows if len(batch.rows) else np.zeros(1, np.int64)  # the head needs at least one row
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
            graph.write(name, values)
        if isinstance(graph, SteeredGraph):
            graph.steer(batch)
        self._latest = graph
        return graph.run(len(rows))[: len(batch.rows)]

    def _graph_for(self, batch: Batch) -> Compiled:
        """The graph for a batch: the one without hooks for steering if nothing is edited or read, as it is
        faster.
        """
        if not batch.edits and not batch.read_rows:
            return self._plain
        missing = {*batch.edits, *batch.read_rows} - self.layers
        if self._steered is None or missing:
            raise RuntimeError(f"the layers {missing} are not editable")
        return self._steered

    @property
    def layers(self) -> frozenset[int]:
        return frozenset(self._steered.sites) if self._steered is not None else frozenset()

    def compile_sites(self, sites: Sites) -> SteeredGraph | None:
        """Compile a graph that is editable at these layers, in seconds; in any thread, while others compute.
        None without sites. Raises ModelError for a layer that the model does not have.
        """
        return self._compile(sites, partial(SteeredGraph, dict(sites))) if sites else None

    def install_sites(self, graph: SteeredGraph | None) -> None:
        if graph is not None:
            graph.share(self._tensors)
        self._steered, self._latest = graph, self._plain

    def states(self, layer: int) -> NDArray[np.float32]:
        return self._latest.output(f"states.{layer}")

    def unedited(self, layer: int) -> NDArray[np.float32]:
        return self._latest.output(f"unedited.{layer}")

    def _find_invariant_sizes(self) -> tuple[int, int]:
        """Compare a token's logits in steps of several sizes: find the smallest and the largest that agree.

        The runtime has kernels that sum in another order: where the processor has AMX, for fewer than some 8
        tokens; where it has no AVX-512, for more than some 80.
        """

        def logits(size: int) -> NDArray[np.float32]:
            row: NDArray[np.float32] = self.forward(one_token(self.spare_block, size, rows=MEDIUM))[0]
            return row.copy()

        medium = logits(MEDIUM)
        least = MEDIUM
        for size in SMALL:
            if not np.array_equal(logits(size), medium):
                break
            least = size
        most = next((size for size in LARGE if np.array_equal(logits(size), medium)), MEDIUM)
        return least, UNLIMITED if most == LARGE[0] else most

    def hidden(self) -> NDArray[np.float32]:
        return self._latest.output("hidden")

    def read_block(self, block: int) -> bytes:
        return b"".join(cache[block].data for cache in self._caches)

    def write_block(self, block: int, content: memoryview) -> None:
        for cache in self._caches:
            cache[block] = np.frombuffer(content[: cache.shape[1]], np.uint8)
            content = content[cache.shape[1] :]

    def copy_block(self, source: int, target: int) -> None:
        for cache in self._caches:
            cache[target] = cache[source]

    def rest(self) -> None:
        for graph in (self._plain, self._steered):
            if graph is None:
                continue
            if graph.shrink() and graph is self._plain:
                # The runtime frees the memory of a request's outputs once another request has run.
                self.forward(one_token(self.spare_block))
            graph.compiled.release_memory()  # of intermediate results, as large as the largest step needed

    def profile(self) -> list[tuple[str, float]]:
        """(type, microseconds) of each operator of the last pass. Needs the property PERF_COUNT=YES."""
        return [
            (info.node_type, info.real_time.total_seconds() * 1e6)
            for info in self._latest.request.profiling_info
        ]


class SteeredGraph(Compiled):
    """A graph with sites, compiled."""

    def __init__(self, sites: Sites, model: ov.Model, core: ov.Core, properties: Mapping[str, str]) -> None:
        super().__init__(model, core, properties)
        self.sites = sites
        self._width = model.output("hidden").get_partial_shape()[-1].get_length()
        self._forget()

    def steer(self, batch: Batch) -> None:
        """Set the inputs of all sites for this batch."""
        for layer, inputs in self._site_inputs.items():
            rows = batch.read_rows.get(layer, NO_ROWS)
            for name, values in inputs.changes(batch.edits.get(layer, NO_EDITS), rows):
                self.write(name, values)

    def shrink(self) -> bool:
        is_new = super().shrink()
        if is_new:
            self._forget()
        return is_new

    def _forget(self) -> None:
        """A new request has no inputs."""
        self._site_inputs = {layer: SiteInputs(site, self._width) for layer, site in self.sites.items()}


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
    return limited({**properties, **options.properties}, options.max_num_seqs)


def _page(model: ov.Model, folder: Path) -> None:
    windows = _windows(model)
    try:
        paged_attention_transformation(model)
    except RuntimeError as exc:
        raise ModelError(f"the graph in {folder} cannot be paged: {exc}") from exc
    for node in model.get_ops() if windows else ():
        if node.get_type_name() == PAGED:
            layer = int(node.input_value(KEYS).get_any_name().rpartition(".")[2])
            node.input(WINDOW).replace_source_output(ops.constant(np.int32(windows[layer])).output(0))


def _windows(model: ov.Model) -> list[int]:
    """How many tokens each layer attends to, 0: all, from the property that our converter writes; empty: all
    layers attend to all.
    """
    if not model.has_rt_info(list(WINDOWS)):
        return []
    return [int(size) for size in model.get_rt_info(list(WINDOWS)).astype(str).split(",")]


def _select_rows(model: ov.Model) -> ov.Node:
    """Insert a gather by the new input `rows` before the head's matrix product, and add the output `hidden`:
    the product's first input, gathered by the new input `hidden_rows`. Returns the product.
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
    return head


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


def token_bytes(model: ov.Model, options: RunnerOptions) -> float:
    """The bytes of one token's keys and values, by the shapes of the variables of a graph that is not paged
    yet: [batch, heads, tokens, dimensions]. Variables of other shapes do not count.
    """
    shapes = [variable.info.data_shape for variable in model.get_variables()]
    known = [shape for shape in shapes if len(shape) == 4 and shape[1].is_static and shape[3].is_static]
    sizes = [(shape[1].get_length(), shape[3].get_length()) for shape in known]
    kind = _properties(options)["KV_CACHE_PRECISION"]
    if kind == "u8":
        return float(sum(heads * (width + SCALE_BYTES) for heads, width in sizes))
    return float(sum(heads * width * (4 if kind == "f32" else 2) for heads, width in sizes))


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
