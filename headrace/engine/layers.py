"""Finds the hidden states between the layers of a decoder in an OpenVINO graph of any exporter."""

from __future__ import annotations

from collections import deque

import openvino as ov

from headrace.errors import ModelError

TRANSPARENT = {"Convert", "Reshape", "Unsqueeze", "Squeeze"}


def find_layers(model: ov.Model, head: ov.Node) -> list[ov.Output]:
    """The embeddings, then the hidden states that leave each layer: layer i is entry i + 1. Raises ModelError
    for a graph whose layers do not add to their input twice, after the attention and after the network.

    `head`: the language-model head's product. From its input, the sums are followed backwards.
    """
    found = [_last_sum(head.input_value(0))]
    while True:
        before = _summand(found[-1].get_node())
        found.append(before)
        if not _is_sum(before.get_node()):
            break
    found.reverse()
    if len(found) % 2 == 0:
        raise ModelError(f"the graph has {len(found) - 1} residual additions: its layers are not known")
    return found[::2]


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
    """Whether it adds two computed values; a bias, or an epsilon, is a constant."""
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
