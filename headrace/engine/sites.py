"""Sites in an OpenVINO graph: places between its layers where hidden states can be edited and read.

At each site the graph gets inputs (tables of directions and scalars, and the weight of each on each token)
and computes the operation of `headrace.steering.slot`. Inputs of what a step does not use are tables of one
row of zeros, which take microseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from headrace.engine.edits import GroupEdits, LayerEdits, table_size
from headrace.errors import ModelError
from headrace.steering.slot import EPSILON, GROUPS, SCALARS, Group, Rank, SiteNeeds, Slot

BOUND = 3e38  # instead of infinity: less than the largest bfloat16
KINDS = ("none", "layer_norm", "constant_norm_rescale")  # of normalization
READING = ("sae", "direction")  # the groups that read
TRANSPARENT = {"Convert", "Reshape", "Unsqueeze", "Squeeze"}
Array = NDArray[np.float32] | NDArray[np.int64]

NO_EDITS = LayerEdits({})
NO_ROWS: NDArray[np.int64] = np.zeros(0, np.int64)


def find_layers(model: ov.Model, head: ov.Node) -> list[ov.Output]:
    """The embeddings, then the hidden states that leave each layer: layer i is entry i + 1. Raises ModelError
    for a graph whose layers do not add to their input twice, after the attention and after the network.

    `head`: the language-model head's product. From its input, the sums are followed backwards.
    """
    sums = [_last_sum(head.input_value(0))]
    while True:
        before = _summand(sums[-1].get_node())
        sums.append(before)
        if not _is_sum(before.get_node()):
            break
    sums.reverse()
    if len(sums) % 2 == 0:
        raise ModelError(f"the graph has {len(sums) - 1} residual additions: its layers are not known")
    return sums[::2]


def _last_sum(value: ov.Output) -> ov.Output:
    """The sum that is nearest before the value: the final norm is between them."""
    waiting, seen = deque([value]), set()
    while waiting:
        output = waiting.popleft()
        node = output.get_node()
        if _is_sum(node):
            return output
        if node.get_friendly_name() not in seen and node.get_type_name() != "MatMul":
            seen.add(node.get_friendly_name())
            waiting.extend(node.input_values())
    raise ModelError("the graph has no residual additions")


def _summand(node: ov.Node) -> ov.Output:
    """Find among a sum's inputs the hidden states, to which the other input was added."""
    inputs = node.input_values()
    sums = [value for value in inputs if _is_sum(value.get_node())]
    if not sums:  # the first layer: the embeddings, from which the addition is computed
        sums = [value for value, other in zip(inputs, reversed(inputs), strict=True) if _leads(value, other)]
    if len(sums) != 1:
        raise ModelError(f"the inputs of {node.get_friendly_name()} are not a hidden state and an addition")
    return sums[0]


def _is_sum(node: ov.Node) -> bool:
    """Whether a node adds two computed values; a bias, or an epsilon, is a constant."""
    return node.get_type_name() == "Add" and not any(
        _is_constant(value.get_node()) for value in node.input_values()
    )


def _leads(value: ov.Output, other: ov.Output) -> bool:
    """Whether `other` is computed from `value`."""
    wanted = value.get_node().get_friendly_name()
    waiting, seen = deque([other.get_node()]), set()
    while waiting:
        name = (node := waiting.popleft()).get_friendly_name()
        if name == wanted:
            return True
        if name not in seen:
            seen.add(name)
            waiting.extend(one.get_node() for one in node.input_values())
    return False


def _is_constant(node: ov.Node) -> bool:
    while node.get_type_name() in TRANSPARENT:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def add_sites(model: ov.Model, head: ov.Node, sites: Mapping[int, SiteNeeds]) -> None:
    """Insert the operation after each of the layers, with its inputs, and the output `states.{layer}`: the
    edited hidden states of the rows in the input `read.{layer}`; and `unedited.{layer}`, the same before.
    Raises ModelError.
    """
    layers = find_layers(model, head)
    for layer, site in sites.items():
        if not -1 <= layer < len(layers) - 1:
            raise ModelError(f"the model has no layer {layer}: it has layers 0 to {len(layers) - 2}")
        builder = _SiteBuilder(site, layers[layer + 1])
        builder.insert()
        model.add_parameters(builder.parameters)
        model.add_results(builder.results)
    model.validate_nodes_and_infer_types()


class _SiteBuilder:
    """Builds one site's part of the graph. T tokens, S slots of a group, d numbers per hidden state."""

    def __init__(self, site: SiteNeeds, states: ov.Output) -> None:
        self._site, self._states = site, states
        shape = states.get_partial_shape()
        self._width = shape[-1].get_length()
        self.parameters: list[ov.Node] = []
        self.results: list[ov.Node] = []

    def insert(self) -> None:
        readers = list(self._states.get_target_inputs())
        states = ops.reshape(self._states, _ints(-1, self._width), special_zero=False)
        added = ops.matmul(self._input("weights.add", 2), self._table("write.add"), False, False)
        edited = ops.add(states, added)
        for group in READING:
            edited = ops.add(edited, self._change(edited, group))
        edited = self._rescaled(states, edited)
        for reader in readers:
            reader.replace_source_output(self._shaped(edited))
        rows = self._input("read", 1, ov.Type.i64)
        for name, value in (("states", edited), ("unedited", states)):
            result = ops.result(ops.convert(ops.gather(value, rows, _ints(0)), "f32"))
            result.input_value(0).set_names({f"{name}.{self._site.layer}"})
            self.results.append(result)

    def _change(self, states: ov.Node, group: str) -> ov.Node:
        """[T, d]: what the slots of a group that reads add to the states."""
        parts = ops.split(self._input(f"scalars.{group}", 2), ops.constant(np.int64(0)), len(SCALARS))
        scalars = dict(zip(SCALARS, parts.outputs(), strict=True))  # [1, S] each
        z = ops.matmul(states, self._table(f"read.{group}"), False, True)
        threshold, kinds, scales = scalars["threshold"], None, None
        if group == "sae" and self._site.normalizes:
            kinds, scales = self._input("kinds", 2), _row_scales(states)
            z = ops.multiply(z, ops.matmul(scales[0], kinds, False, False))
        z = ops.add(z, scalars["bias"])
        if group == "sae" and self._site.ranks:
            threshold = ops.maximum(threshold, self._boundaries(states, scales)).output(0)
        a = ops.select(ops.greater(z, threshold), z, _number(0))
        wanted = ops.add(ops.multiply(a, scalars["gain"]), scalars["offset"])
        wanted = ops.minimum(ops.maximum(wanted, scalars["low"]), scalars["high"])
        change = ops.multiply(ops.subtract(wanted, a), self._input(f"weights.{group}", 2))
        change = ops.select(ops.greater(a, scalars["least"]), change, _number(0))
        if kinds is not None and scales is not None:
            change = ops.multiply(change, ops.matmul(scales[1], kinds, False, False))
        return ops.matmul(change, self._table(f"write.{group}"), False, False)

    def _boundaries(self, states: ov.Node, scales: tuple[ov.Node, ov.Node] | None) -> ov.Node:
        """[T, S]: of each slot of a topk SAE, what its activation must exceed to be among the k largest of
        the row; 0 of other slots, and of rows that are not in the input `rank.{index}`.
        """
        columns = [self._boundary(index, rank, states, scales) for index, rank in enumerate(self._site.ranks)]
        return ops.matmul(ops.concat(columns, 1), self._input("ranked", 2), False, False)

    def _boundary(
        self, index: int, rank: Rank, states: ov.Node, scales: tuple[ov.Node, ov.Node] | None
    ) -> ov.Node:
        """[T, 1]: half-way between the k-th largest activation and the next one. It is computed for the rows
        in `rank.{index}` only; `place.{index}`[T] says which of them a token is, from 1; 0: none.
        """
        rows = self._input(f"rank.{index}", 1, ov.Type.i64)
        place = self._input(f"place.{index}", 1, ov.Type.i64)
        z = ops.matmul(ops.gather(states, rows, _ints(0)), ops.constant(rank.encoder), False, False)
        if rank.normalization != "none":
            assert scales is not None
            column = ops.gather(scales[0], _ints(KINDS.index(rank.normalization)), _ints(1))
            z = ops.multiply(z, ops.gather(column, rows, _ints(0)))
        z = ops.add(z, ops.constant(rank.bias.reshape(1, -1)))
        largest = ops.topk(z, ops.constant(np.int64(rank.k + 1)), 1, "max", "value").output(0)
        last = ops.gather(largest, _ints(rank.k - 1, rank.k), _ints(1))
        middle = ops.reduce_mean(last, _ints(1), keep_dims=True)
        all_places = ops.concat([ops.constant(np.zeros((1, 1), np.float32)), middle], 0)
        return ops.gather(all_places, place, _ints(0))

    def _rescaled(self, states: ov.Node, edited: ov.Node) -> ov.Node:
        """The edited states, with the norm of the states where the input `keep` [T, 1] is 1."""
        keep = ops.greater(self._input("keep", 2), _number(0.5))
        before, after = (_norm(value) for value in (states, edited))
        scale = ops.divide(before, ops.maximum(after, _number(1e-30)))
        return ops.select(keep, ops.multiply(edited, scale), edited)

    def _shaped(self, edited: ov.Node) -> ov.Output:
        """The states in the shape that the graph has: [T, 1, d] paged, [1, T, d] otherwise."""
        is_paged = self._states.get_partial_shape()[1].is_static
        target = (-1, 1, self._width) if is_paged else (1, -1, self._width)
        return ops.reshape(edited, _ints(*target), special_zero=False).output(0)

    def _table(self, name: str) -> ov.Node:
        return self._input(name, 2, last=self._width)

    def _input(self, name: str, rank: int, kind: ov.Type = ov.Type.f32, last: int = -1) -> ov.Node:
        parameter = ops.parameter([-1] * (rank - 1) + [last], kind)
        full = f"{name}.{self._site.layer}"
        parameter.set_friendly_name(full)
        parameter.output(0).set_names({full})
        self.parameters.append(parameter)
        return parameter


def _row_scales(states: ov.Node) -> tuple[ov.Node, ov.Node]:
    """([T, 3], [T, 3]): ρ and κ under each of KINDS, see `scales` in tests/steering/operation.py."""
    width = states.get_output_partial_shape(0)[-1].get_length()
    ones = ops.multiply(ops.gather(states, _ints(0), _ints(1)), _number(0))
    ones = ops.add(ones, _number(1))
    mean = ops.reduce_mean(states, _ints(1), keep_dims=True)
    centred = ops.subtract(states, mean)
    squares = ops.reduce_sum(ops.multiply(centred, centred), _ints(1), keep_dims=True)
    deviation = ops.sqrt(ops.multiply(squares, _number(1 / (width - 1))))
    norm = ops.multiply(_norm(states), _number(float(width) ** -0.5))
    incoming = ops.concat(
        [ones, ops.divide(_number(1), ops.add(deviation, _number(EPSILON))), ops.divide(_number(1), norm)], 1
    )
    return incoming, ops.concat([ones, deviation, norm], 1)


def _norm(states: ov.Node) -> ov.Node:
    return ops.sqrt(ops.reduce_sum(ops.multiply(states, states), _ints(1), keep_dims=True))


def _number(value: float) -> ov.Node:
    return ops.constant(np.full((1, 1), value, np.float32))


def _ints(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))


class SiteInputs:
    """The inputs of one site. It remembers what the graph has, so that a step sets only what changes."""

    def __init__(self, site: SiteNeeds, width: int) -> None:
        self._site, self._width = site, width
        self._tables: dict[Group, tuple[bytes, ...] | None] = {}  # keys of the slots in a group's tables
        self._idle: set[str] = set()  # groups, and "keep" and "read", whose inputs are one row of zeros

    def changes(self, edits: LayerEdits, rows: NDArray[np.int64]) -> Iterator[tuple[str, Array]]:
        """(input, value) of each that must be set for these edits, and for reading these rows."""
        for group in GROUPS:
            group_edits = edits.groups.get(group)
            if group_edits is not None:
                yield from self._of_group(group, group_edits)
            elif group not in self._idle:
                yield from self._of_nothing(group)
        if edits.keep_norm is not None:
            self._idle.discard("keep")
            yield self._name("keep"), edits.keep_norm.reshape(-1, 1)
        elif "keep" not in self._idle:
            self._idle.add("keep")
            yield self._name("keep"), np.zeros((1, 1), np.float32)
        if len(rows):
            self._idle.discard("read")
            yield self._name("read"), rows
        elif "read" not in self._idle:
            self._idle.add("read")
            yield self._name("read"), np.zeros(1, np.int64)

    def _of_group(self, group: Group, edits: GroupEdits) -> Iterator[tuple[str, Array]]:
        self._idle.discard(group)
        size = table_size(len(edits.slots))
        keys = tuple(slot.key for slot in edits.slots)
        if self._tables.get(group) != keys:
            self._tables[group] = keys
            yield from self._tables_of(group, edits.slots, size)
        yield self._name(f"weights.{group}"), _padded(edits.weights, size)
        if group == "sae" and self._site.ranks:
            yield from self._ranked(edits)

    def _tables_of(self, group: Group, slots: tuple[Slot, ...], size: int) -> Iterator[tuple[str, Array]]:
        if group == "add":
            rows = [np.float32(slot.shape.offset) * slot.write for slot in slots]
            yield self._name("write.add"), self._stacked(rows, size)
            return
        yield self._name(f"write.{group}"), self._stacked([slot.write for slot in slots], size)
        reads = [slot.read for slot in slots if slot.read is not None]
        yield self._name(f"read.{group}"), self._stacked(reads, size)
        yield self._name(f"scalars.{group}"), _scalars(slots, size)
        if group == "sae" and self._site.normalizes:
            kinds = np.zeros((len(KINDS), size), np.float32)
            for column, slot in enumerate(slots):
                kinds[KINDS.index(slot.normalization), column] = 1
            yield self._name("kinds"), kinds
        if group == "sae" and self._site.ranks:
            ranked = np.zeros((len(self._site.ranks), size), np.float32)
            for column, slot in enumerate(slots):
                if slot.rank is not None:
                    ranked[self._rank_of(slot), column] = 1
            yield self._name("ranked"), ranked

    def _ranked(self, edits: GroupEdits) -> Iterator[tuple[str, Array]]:
        """For each topk SAE the tokens that use it: their rows, and which of them each token is, from 1."""
        for index in range(len(self._site.ranks)):
            columns = [c for c, slot in enumerate(edits.slots) if slot.rank and self._rank_of(slot) == index]
            needs = edits.weights[:, columns].any(axis=1)
            rows = np.flatnonzero(needs)
            yield self._name(f"rank.{index}"), rows
            yield self._name(f"place.{index}"), np.where(needs, np.cumsum(needs), 0).astype(np.int64)

    def _rank_of(self, slot: Slot) -> int:
        assert slot.rank is not None
        digests = [rank.digest for rank in self._site.ranks]
        return digests.index(slot.rank.digest)

    def _of_nothing(self, group: Group) -> Iterator[tuple[str, Array]]:
        """Inputs with one slot of zeros, which changes nothing."""
        self._idle.add(group)
        self._tables[group] = None
        yield self._name(f"weights.{group}"), np.zeros((1, 1), np.float32)
        yield self._name(f"write.{group}"), np.zeros((1, self._width), np.float32)
        if group == "add":
            return
        yield self._name(f"read.{group}"), np.zeros((1, self._width), np.float32)
        yield self._name(f"scalars.{group}"), np.zeros((len(SCALARS), 1), np.float32)
        if group == "sae" and self._site.normalizes:
            yield self._name("kinds"), np.zeros((len(KINDS), 1), np.float32)
        if group == "sae" and self._site.ranks:
            yield self._name("ranked"), np.zeros((len(self._site.ranks), 1), np.float32)
            for index in range(len(self._site.ranks)):
                yield self._name(f"rank.{index}"), NO_ROWS  # the product with its encoder is skipped
                yield self._name(f"place.{index}"), np.zeros(1, np.int64)

    def _stacked(self, rows: list[NDArray[np.float32]], size: int) -> NDArray[np.float32]:
        table = np.zeros((size, self._width), np.float32)
        table[: len(rows)] = rows
        return table

    def _name(self, name: str) -> str:
        return f"{name}.{self._site.layer}"


def _padded(weights: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    padded = np.zeros((len(weights), size), np.float32)
    padded[:, : weights.shape[1]] = weights
    return padded


def _scalars(slots: tuple[Slot, ...], size: int) -> NDArray[np.float32]:
    """[SCALARS, size]. The padding is zeros: a slot that clamps nothing to 0, with weight 0."""
    scalars = np.zeros((len(SCALARS), size), np.float32)
    for column, slot in enumerate(slots):
        scalars[:, column] = np.clip(slot.scalars, -BOUND, BOUND)
    return scalars
