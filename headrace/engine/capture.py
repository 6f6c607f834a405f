"""Hidden states of whole texts, outside the engine: for training control vectors and SAEs, and as an oracle.

A graph is built for each question, with only the layers that its answer needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from headrace.engine.openvino import EXACT, find_head, read
from headrace.engine.sites import find_layers

Floats = NDArray[np.float32]
Question = tuple[
    frozenset[int], frozenset[int], bool
]  # layers that are read and replaced; whether logits are


class HiddenStates:
    """See steering.types.Capture. Layer -1 is the embeddings. Raises ModelError for a graph whose layers are
    not found.
    """

    def __init__(
        self,
        folder: Path,
        encode: Callable[[str], list[int]] | None = None,
        *,
        exact: bool = False,
        num_threads: int = 0,
    ) -> None:
        """`encode`: the tokens of a text. `exact`: compute in float32, not the processor's fastest type."""
        self._folder, self._encode = folder, encode
        self._properties = {"PERFORMANCE_HINT": "LATENCY", **(EXACT if exact else {})}
        if num_threads:
            self._properties["INFERENCE_NUM_THREADS"] = str(num_threads)
        self._requests: dict[Question, ov.InferRequest] = {}
        model = read(folder)
        layers = find_layers(model, find_head(model))
        self.num_layers = len(layers) - 1
        self.width = int(layers[0].get_partial_shape()[-1].get_length())

    def tokens(self, text: str) -> list[int]:
        """The token ids of a text, with BOS if the model uses one."""
        assert self._encode is not None
        return self._encode(text)

    def states(self, tokens: Sequence[int], layers: Iterable[int]) -> dict[int, Floats]:
        """The hidden states that leave these layers, by layer: [tokens, width] each."""
        probed = frozenset(layers)
        request = self._ask((probed, frozenset(), False), tokens, {})
        return {layer: self._output(request, f"states.{layer}") for layer in probed}

    def logits(self, tokens: Sequence[int], replaced: Mapping[int, Floats] | None = None) -> Floats:
        """The logits [tokens, vocabulary]. `replaced`: states[tokens, width] that leave these layers instead
        of the model's own.
        """
        replaced = replaced or {}
        request = self._ask((frozenset(), frozenset(replaced), True), tokens, replaced)
        return self._output(request, "logits")

    def _ask(
        self, question: Question, tokens: Sequence[int], replaced: Mapping[int, Floats]
    ) -> ov.InferRequest:
        request = self._requests.get(question)
        if request is None:
            request = self._requests[question] = self._compile(question)
        count = len(tokens)
        feed = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, count), np.int64),
            "position_ids": np.arange(count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
            **{
                f"replaced.{layer}": np.ascontiguousarray(states, np.float32)
                for layer, states in replaced.items()
            },
        }
        inputs = {name for port in request.get_compiled_model().inputs for name in port.get_names()}
        request.reset_state()
        request.infer({name: value for name, value in feed.items() if name in inputs})
        return request

    def _output(self, request: ov.InferRequest, name: str) -> Floats:
        output: Floats = request.get_tensor(name).data
        return output.reshape(-1, output.shape[-1]).copy()

    def _compile(self, question: Question) -> ov.InferRequest:
        probed, replaced, has_logits = question
        model = read(self._folder)
        layers = find_layers(model, find_head(model))
        for layer in probed:
            result = ops.result(ops.convert(layers[layer + 1], "f32"))
            result.input_value(0).set_names({f"states.{layer}"})
            model.add_results([result])
        for layer in replaced:
            _replace(model, layers[layer + 1], f"replaced.{layer}")
        if not has_logits:
            model.remove_result(model.get_results()[0])
        _keep_what_is_needed(model)
        model.validate_nodes_and_infer_types()
        return ov.Core().compile_model(model, "CPU", self._properties).create_infer_request()


def _replace(model: ov.Model, states: ov.Output, name: str) -> None:
    """Let an input take the place of the states: [tokens, width]."""
    width = int(states.get_partial_shape()[-1].get_length())
    readers = list(states.get_target_inputs())
    parameter = ops.parameter([-1, width], ov.Type.f32)
    parameter.set_friendly_name(name)
    parameter.output(0).set_names({name})
    shaped = ops.unsqueeze(parameter, ops.constant(np.int64(0)))
    for reader in readers:
        reader.replace_source_output(shaped.output(0))
    model.add_parameters([parameter])


def _keep_what_is_needed(model: ov.Model) -> None:
    """Remove the cache of layers that no result depends on, so that they are not computed."""
    waiting: list[ov.Node] = list(model.get_results())
    needed: set[str] = set()
    caches: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in needed:
            continue
        needed.add(node.get_friendly_name())
        if node.get_type_name() == "ReadValue":
            caches.add(node.get_attributes()["variable_id"])
        waiting.extend(value.get_node() for value in node.input_values())
    for sink in model.get_sinks():
        if sink.get_attributes()["variable_id"] not in caches:
            model.remove_sink(sink)
    for variable in model.get_variables():
        if variable.info.variable_id not in caches:
            model.remove_variable(variable)
