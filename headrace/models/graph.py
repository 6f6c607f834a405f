"""Builds a stateful OpenVINO graph from a decoder's weights, shaped like published IR folders.

Inputs: `input_ids`, `attention_mask`, `position_ids` int64[batch, tokens], `beam_idx` int32[batch]. Output:
`logits` f32[batch, tokens, vocabulary]. The KV cache is state (ReadValue / Assign), which the runtime's
paged-attention transformation turns into block tables. The patterns below are those that it and the CPU
plugin's fusions (RMS norm, rotation, SwiGLU) recognise; the arithmetic is the Llama and Qwen papers', and
where an architecture differs, its authors'. Which parts a layer has (biases, norms of heads, norms after
attention and feed-forward, fused projections) is read from its tensors.

The runtime's paged attention knows windows, but not from our mask: the engine sets them from the graph's
property `headrace/windows`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

from headrace.models import weights
from headrace.models.hyperparameters import Decoder

WINDOWS = ("headrace", "windows")  # the graph's property: each layer's window, separated by commas
MASKED = -65504.0  # the least float16: scores that become 0 after softmax


@dataclass(frozen=True, slots=True)
class _Inputs:
    input_ids: ov.Node
    attention_mask: ov.Node
    position_ids: ov.Node
    beam_idx: ov.Node


def build(source: Decoder) -> ov.Model:
    """Build the whole graph. Raises ModelError if a tensor is missing, or has numbers that are infinite."""
    shape = source.hyperparameters
    inputs = _Inputs(
        _parameter("input_ids", ov.Type.i64, 2),
        _parameter("attention_mask", ov.Type.i64, 2),
        _parameter("position_ids", ov.Type.i64, 2),
        _parameter("beam_idx", ov.Type.i32, 1),
    )
    table = weights.constant(source, (weights.EMBEDDING, 0))
    ids = ops.convert(inputs.input_ids, "i32")
    hidden = _scaled(ops.gather(table, ids, ops.constant(np.int32(0))).output(0), shape.embedding_scale)
    layer = _Layers(source, inputs)
    for index in range(shape.num_layers):
        hidden = layer.build(index, hidden)
    hidden = _rms_norm(hidden, source, "output_norm.weight")
    head = weights.constant(source, ("output.weight", 0)) if "output.weight" in source else table
    logits = _scaled(ops.matmul(hidden, head, False, True).output(0), shape.logit_scale)
    logits.set_names({"logits"})
    parameters = [inputs.input_ids, inputs.attention_mask, inputs.position_ids, inputs.beam_idx]
    result = ops.result(logits)
    result.set_friendly_name("logits")
    model = ov.Model([result], layer.sinks, parameters, source.hyperparameters.architecture)
    model.set_rt_info("f16", ["runtime_options", "KV_CACHE_PRECISION"])
    if any(shape.windows):
        model.set_rt_info(",".join(map(str, shape.windows)), list(WINDOWS))
    return model


class _Layers:
    """Builds decoder layers one after another. They share the rotation and the mask."""

    def __init__(self, source: Decoder, inputs: _Inputs) -> None:
        self.source, self.shape, self.inputs = source, source.hyperparameters, inputs
        self.sinks: list[ov.Node] = []
        self.batch = ops.gather(ops.shape_of(inputs.input_ids), _ints(0), _ints(0))
        self._rotations: dict[tuple[float, float], tuple[ov.Node, ov.Node]] = {}  # base, factor → cos, sin
        self._masks: dict[int, ov.Node] = {}  # window → mask

    def build(self, index: int, hidden: ov.Output) -> ov.Output:
        block = f"blk.{index}."
        attended = self._attention(index, block, _rms_norm(hidden, self.source, block + "attn_norm.weight"))
        middle = ops.add(hidden, self._added(attended.output(0), block + "post_attention_norm.weight"))
        middle.set_friendly_name(f"model.layers.self_attn.add0.layer{index}")
        fed = self._feed_forward(block, _rms_norm(middle.output(0), self.source, block + "ffn_norm.weight"))
        out = ops.add(middle, self._added(fed.output(0), block + "post_ffw_norm.weight"))
        out.set_friendly_name(f"model.layers.self_attn.add1.layer{index}")
        return out.output(0)

    def _added(self, x: ov.Output, norm: str) -> ov.Output:
        """What attention or feed-forward adds to the hidden states."""
        if norm in self.source:
            x = _rms_norm(x, self.source, norm)
        return _scaled(x, self.shape.residual_scale)

    def _feed_forward(self, block: str, x: ov.Output) -> ov.Node:
        if self.shape.num_experts:
            return self._experts(block, x)
        gate, up = self._gate_and_up(block, x)
        active = ops.swish(gate) if self.shape.activation == "silu" else ops.gelu(gate, "tanh")
        return self._linear(block + "ffn_down", ops.multiply(active, up).output(0))

    def _gate_and_up(self, block: str, x: ov.Output) -> list[ov.Output]:
        up = self._linear(block + "ffn_up", x).output(0)
        if block + "ffn_gate.weight" in self.source:
            return [self._linear(block + "ffn_gate", x).output(0), up]
        halves: list[ov.Output] = ops.split(up, ops.constant(np.int64(-1)), 2).outputs()
        return halves

    def _experts(self, block: str, x: ov.Output) -> ov.Node:
        """What the experts that a router chooses for each token give, weighted (Shazeer et al. 2017). Written
        as if all experts computed all tokens: the CPU plugin recognises that in just this form, and computes
        the chosen ones.
        """
        shape, count, last = self.shape, self.shape.num_experts, _ints(-1)
        flat = ops.reshape(x, _ints(-1, shape.hidden), special_zero=False)
        odds = ops.softmax(self._product(flat.output(0), (block + "ffn_gate_inp", 0)), -1)
        chosen = ops.topk(odds, ops.constant(np.int64(shape.num_chosen)), -1, "max", "value", "i64")
        shares, ids = chosen.outputs()
        if shape.is_choice_normalised:
            shares = ops.divide(shares, ops.reduce_sum(shares, last, keep_dims=True))
        none = ops.broadcast(ops.constant(np.float32(0)), ops.shape_of(odds))
        spread = ops.scatter_elements_update(none, ids, shares, ops.constant(np.int64(1)))
        sizes = ops.gather(ops.shape_of(x), _ints(0, 1), _ints(0))  # batch, tokens
        by_expert = ops.reshape(
            ops.transpose(spread, _ints(1, 0)), ops.concat([_ints(count), sizes], 0), special_zero=False
        )
        tiled = ops.reshape(
            ops.tile(flat, _ints(count, 1)), _ints(count, -1, shape.hidden), special_zero=False
        )
        gate = self._of_experts(block + "ffn_gate", tiled)
        active = ops.multiply(gate, ops.sigmoid(gate))
        wide = ops.multiply(active, self._of_experts(block + "ffn_up", tiled))
        down = self._of_experts(block + "ffn_down", wide)
        answers = ops.reshape(
            down, ops.concat([_ints(count), sizes, _ints(shape.hidden)], 0), special_zero=False
        )
        return ops.reduce_sum(ops.multiply(answers, ops.unsqueeze(by_expert, last)), _ints(0))

    def _of_experts(self, name: str, x: ov.Node) -> ov.Node:
        """The product of each expert's rows and its matrix: [experts, rows, out]."""
        count, stacked = self.shape.num_experts, name + "_exps.weight"
        names = [stacked] if stacked in self.source else [f"{name}.{index}.weight" for index in range(count)]
        matrices = weights.constant(self.source, *((one, 0) for one in names), experts=count)
        return ops.matmul(x, matrices, False, True)

    def _attention(self, index: int, block: str, x: ov.Output) -> ov.Node:
        shape = self.shape
        flat_query, flat_key, flat_value = self._project(block, x)
        query = self._rotate(index, self._heads(block + "attn_q", flat_query, shape.num_heads))
        key = self._rotate(index, self._heads(block + "attn_k", flat_key, shape.num_kv_heads))
        if shape.attention_scale:  # the operation divides by the square root itself
            factor = shape.attention_scale * shape.head_dim**0.5
            query = _scaled(query.output(0), factor).get_node()
        value = self._heads(block + "attn_v", flat_value, shape.num_kv_heads)
        keys = self._repeat(self._remember(f"past_key_values.{index}.keypresent.{index}.key", key))
        values = self._repeat(self._remember(f"past_key_values.{index}.valuepresent.{index}.key", value))
        attended = ops.scaled_dot_product_attention(
            query, keys, values, self._mask(shape.window(index)), causal=False
        )
        joined = ops.reshape(
            ops.transpose(attended, _ints(0, 2, 1, 3)),
            _ints(0, 0, shape.num_heads * shape.head_dim),
            special_zero=True,
        )
        return self._linear(block + "attn_output", joined.output(0))

    def _project(self, block: str, x: ov.Output) -> list[ov.Output]:
        """Query, key and value, [batch, tokens, heads × dim] each. One product if their weights have the same
        storage, because a large product is faster than three small ones.
        """
        q, kv = self.shape.num_heads, self.shape.num_kv_heads
        sizes = _ints(*(count * self.shape.head_dim for count in (q, kv, kv)))
        if block + "attn_qkv.weight" in self.source:
            whole = self._linear(block + "attn_qkv", x)
            fused: list[ov.Output] = ops.variadic_split(whole, _ints(-1), sizes).outputs()
            return fused
        undo = (q, kv, 0) if self.shape.interleaved else (0, 0, 0)
        parts = [
            (block + name, heads) for name, heads in zip(("attn_q", "attn_k", "attn_v"), undo, strict=True)
        ]
        if len({weights.storage(self.source, name + ".weight") for name, _ in parts}) > 1:
            products = [self._product(x, part) for part in parts]
        else:
            products = ops.variadic_split(self._product(x, *parts), _ints(-1), sizes).outputs()
        return [self._with_bias(product, *part) for product, part in zip(products, parts, strict=True)]

    def _linear(self, name: str, x: ov.Output) -> ov.Node:
        return self._with_bias(self._product(x, (name, 0)), name, 0).get_node()

    def _product(self, x: ov.Output, *parts: weights.Part) -> ov.Output:
        matrix = weights.constant(self.source, *((name + ".weight", heads) for name, heads in parts))
        return ops.matmul(x, matrix, False, True).output(0)

    def _with_bias(self, product: ov.Output, name: str, heads: int) -> ov.Output:
        if name + ".bias" not in self.source:
            return product
        bias = weights.deinterleave(weights.vector(self.source, name + ".bias"), heads)
        return ops.add(product, ops.constant(bias.reshape(1, 1, -1))).output(0)

    def _heads(self, name: str, flat: ov.Output, count: int) -> ov.Node:
        """Split into heads, and normalise each if the model has a norm: [batch, heads, tokens, dim]."""
        split = ops.reshape(flat, _ints(0, 0, count, self.shape.head_dim), special_zero=True)
        if name + "_norm.weight" in self.source:
            split = _rms_norm(split.output(0), self.source, name + "_norm.weight").get_node()
        return ops.transpose(split, _ints(0, 2, 1, 3))

    def _remember(self, variable_id: str, new: ov.Node) -> ov.Node:
        """Append the new rows to the cached ones and store all: [batch, kv_heads, past + tokens, dim]."""
        heads, dim = self.shape.num_kv_heads, self.shape.head_dim
        info = VariableInfo()
        info.data_shape, info.data_type, info.variable_id = (
            ov.PartialShape([-1, heads, -1, dim]),
            ov.Type.f32,
            variable_id,
        )
        variable = Variable(info)
        empty_shape = ops.concat([self.batch, _ints(heads), _ints(0), _ints(dim)], 0)
        empty = ops.broadcast(ops.constant(np.float32(0)), empty_shape)
        past = ops.gather(ops.read_value(empty, variable), self.inputs.beam_idx, ops.constant(np.int64(0)))
        whole = ops.concat([past, new], 2)
        self.sinks.append(ops.assign(whole, variable))
        return whole

    def _repeat(self, kv: ov.Node) -> ov.Node:
        """Grouped-query attention: each kv head serves num_heads / num_kv_heads query heads."""
        shape = self.shape
        times = shape.num_heads // shape.num_kv_heads
        if times == 1:
            return kv
        target = ops.concat(
            [self.batch, _ints(shape.num_kv_heads), _ints(times), _ints(0), _ints(shape.head_dim)], 0
        )
        wide = ops.broadcast(
            ops.unsqueeze(kv, ops.constant(np.int64(2))), target, broadcast_spec="BIDIRECTIONAL"
        )
        return ops.reshape(wide, _ints(0, shape.num_heads, -1, shape.head_dim), special_zero=True)

    def _rotation(self, base: float, factor: float) -> tuple[ov.Node, ov.Node]:
        """cos and sin of position × base^(-2i/dim) / factor, [batch, 1, tokens, dim] (RoFormer, eq. 34)."""
        dim = self.shape.rotary_dim or self.shape.head_dim
        frequencies = base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim) / factor
        if "rope_freqs.weight" in self.source:  # Llama 3.1's long-context factors
            frequencies = frequencies / weights.vector(self.source, "rope_freqs.weight")
        column = ops.constant(frequencies.astype(np.float32).reshape(1, -1, 1))
        wide = ops.broadcast(
            column, ops.concat([self.batch, _ints(1), _ints(1)], 0), broadcast_spec="BIDIRECTIONAL"
        )
        positions = ops.convert(ops.unsqueeze(self.inputs.position_ids, ops.constant(np.int64(1))), "f32")
        angles = ops.transpose(ops.matmul(wide, positions, False, False), _ints(0, 2, 1))
        both = ops.concat([angles, angles], -1)
        one = ops.constant(np.int64(1))
        return ops.unsqueeze(ops.cos(both), one), ops.unsqueeze(ops.sin(both), one)

    def _rotate(self, layer: int, x: ov.Node) -> ov.Node:
        """The heads with their leading dimensions rotated by position, if the layer does that."""
        shape = self.shape
        if layer in shape.unrotated:
            return x
        is_local = bool(shape.window(layer) and shape.local_rope_base)
        key = (shape.local_rope_base, 1.0) if is_local else (shape.rope_base, shape.rope_factor)
        if key not in self._rotations:
            self._rotations[key] = self._rotation(*key)
        if shape.rotary_dim in (0, shape.head_dim):
            return self._turned(x, *self._rotations[key])
        rest = shape.head_dim - shape.rotary_dim
        first, others = ops.variadic_split(x, _ints(3), _ints(shape.rotary_dim, rest)).outputs()
        return ops.concat([self._turned(first, *self._rotations[key]), others], -1)

    def _turned(self, x: ov.Node, cos: ov.Node, sin: ov.Node) -> ov.Node:
        half, last = (self.shape.rotary_dim or self.shape.head_dim) // 2, _ints(3)
        upper = ops.slice(x, _ints(half), _ints(np.iinfo(np.int64).max), _ints(1), last)
        lower = ops.slice(x, _ints(0), _ints(half), _ints(1), last)
        turned = ops.concat(
            [ops.multiply(upper, ops.constant(np.full((1, 1, 1, 1), -1, np.float32))), lower], -1
        )
        return ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))

    def _mask(self, window: int) -> ov.Node:
        """f32[batch, 1, tokens, past + tokens]: 0 where a token attends to another, else MASKED."""
        if window not in self._masks:
            self._masks[window] = self._new_mask(window)
        return self._masks[window]

    def _new_mask(self, window: int) -> ov.Node:
        zero, one = ops.constant(np.int64(0)), ops.constant(np.int64(1))
        tokens = ops.gather(ops.shape_of(self.inputs.input_ids), one, zero)
        total = ops.gather(ops.shape_of(self.inputs.attention_mask), one, zero)
        rows = ops.unsqueeze(ops.range(ops.subtract(total, tokens), total, one, "i64"), one)
        columns = ops.unsqueeze(ops.range(zero, total, one, "i64"), zero)
        reached = ops.less_equal(columns, rows)
        if window:
            near = ops.greater(columns, ops.subtract(rows, ops.constant(np.int64(window))))
            reached = ops.logical_and(reached, near)
        causal = ops.unsqueeze(reached, _ints(0, 1))
        attended = ops.unsqueeze(ops.not_equal(self.inputs.attention_mask, zero), _ints(1, 2))
        return ops.select(
            ops.logical_and(causal, attended), ops.constant(np.float32(0)), ops.constant(np.float32(MASKED))
        )


def _rms_norm(x: ov.Output, source: Decoder, name: str) -> ov.Output:
    """x / sqrt(mean(x²) + eps) × weight, over the last axis (Zhang and Sennrich 2019)."""
    ones = (1,) * (len(x.get_partial_shape()) - 1)
    square = ops.power(x, ops.constant(np.full((*ones, 1), 2, np.float32)))
    mean = ops.reduce_mean(square, ops.constant(np.array([-1], np.int32)), keep_dims=True)
    eps = ops.constant(np.full((*ones, 1), source.hyperparameters.rms_eps, np.float32))
    inverse = ops.divide(ops.constant(np.ones((*ones, 1), np.float32)), ops.sqrt(ops.add(mean, eps)))
    scale = ops.constant(weights.vector(source, name).reshape(*ones, -1))
    return ops.multiply(ops.multiply(inverse, x), scale).output(0)


def _scaled(x: ov.Output, factor: float) -> ov.Output:
    if factor == 1:
        return x
    ones = (1,) * len(x.get_partial_shape())
    return ops.multiply(x, ops.constant(np.full(ones, factor, np.float32))).output(0)


def _parameter(name: str, kind: ov.Type, rank: int) -> ov.Node:
    parameter = ops.parameter([-1] * rank, kind)
    parameter.set_friendly_name(name)
    parameter.output(0).set_names({name})
    return parameter


def _ints(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))
