"""A compiled OpenVINO graph with its request: inputs are set in place where their shapes stay.

The runtime compiles kernels for each number of tokens that it meets, about 1.3 MB, and by default keeps those
of hundreds of numbers, so that memory grows for hours. Headrace limits what it remembers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import openvino as ov
from numpy.typing import NDArray

FEW_ROWS = 64  # of logits in a step, whose memory is kept

Array = NDArray[np.float32] | NDArray[np.int64] | NDArray[np.int32]
# The plugin counts numbers of tokens, about. oneDNN below it would hold on to the same kernels, of which each
# number of tokens has several.
LEAST, KERNELS = 32, 8
PROPERTY, VARIABLE = "CPU_RUNTIME_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


class Compiled:
    """`inputs`: their names. `tensors`: keys and values, which several graphs may share."""

    def __init__(self, model: ov.Model, core: ov.Core, properties: Mapping[str, str]) -> None:
        self.compiled = core.compile_model(model, "CPU", dict(properties))
        self.request = self.compiled.create_infer_request()
        self.inputs = {name for port in self.compiled.inputs for name in port.get_names()}
        self.tensors: Mapping[str, ov.Tensor] = {}
        self._written: dict[str, ov.Tensor] = {}  # the inputs of the last pass
        self._most_rows = 0

    def share(self, tensors: Mapping[str, ov.Tensor]) -> None:
        """Make the graph read and write these tensors of keys and values."""
        self.tensors = tensors
        for name, tensor in tensors.items():
            self.request.set_tensor(name, tensor)

    def write(self, name: str, values: Array) -> None:
        """Give the request an input: in place where its shape has not changed, seven times as fast. A name
        that the graph does not have is ignored.
        """
        if name not in self.inputs:
            return
        tensor = self._written.get(name)
        if tensor is not None and tensor.data.shape == values.shape:
            tensor.data[...] = values
        else:
            self._written[name] = ov.Tensor(values)
            self.request.set_tensor(name, self._written[name])

    def run(self, num_rows: int) -> NDArray[np.float32]:
        """Compute; returns logits[num_rows, vocabulary], valid until the next call. Releases the interpreter
        lock.
        """
        self._most_rows = max(self._most_rows, num_rows)
        self.request.infer()
        return self.output("logits").reshape(num_rows, -1)

    def output(self, name: str) -> NDArray[np.float32]:
        """An output of the last pass: [rows, numbers]."""
        output: NDArray[np.float32] = self.request.get_tensor(name).data
        return output.reshape(-1, output.shape[-1])

    def shrink(self) -> bool:
        """Free the memory of a large step's logits. True if the request is new: the runtime frees the old
        one's memory once the new one has run.
        """
        if self._most_rows <= FEW_ROWS:
            return False
        self.request, self._most_rows = self.compiled.create_infer_request(), 0
        self._written.clear()
        self.share(self.tensors)
        return True


def limited(properties: Mapping[str, str], max_num_seqs: int = LEAST) -> dict[str, str]:
    """The properties of a compilation, with the limit unless they have one: as many numbers as sequences may
    decode in a step. oneDNN reads its own limit from the environment at its first use; an operator's counts.
    """
    most = max(LEAST, max_num_seqs)
    os.environ.setdefault(VARIABLE, str(KERNELS * most))
    return {PROPERTY: str(most), **properties}
