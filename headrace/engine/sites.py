"""Sites in an OpenVINO graph: places between its layers where hidden states can be edited and read.

At each site the graph gets inputs (tables of directions and scalars, and the weight of each on each token)
and computes the operation of `headrace.steering.slot`. Inputs of what a step does not use are tables of one
row of zeros, which take microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from headrace.engine.layers import find_layers
from headrace.errors import ModelError
from headrace.steering.slot import EPSILON, SCALARS, Rank, SiteNeeds

BOUND = 3e38  # instead of infinity: less than the largest bfloat16
KINDS = ("none", "layer_norm", "constant_norm_rescale")  # of normalization
READING = ("sae", "direction")  # the groups that read


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
    """([T, 3], [T, 3]): ρ and κ under each of KINDS, see headrace.steering.operation.scales."""
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
