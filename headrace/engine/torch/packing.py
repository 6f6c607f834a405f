"""Matrices in the order in which the processor multiplies them.

On a CPU, torch reorders a bfloat16 matrix at each multiplication. Reordered once, small steps take half the
time (1 to 2 rows: 0.04 instead of 0.10 ms for 1536 × 576), large ones four fifths; with float32, 16 rows take
half. And the kernels for reordered matrices round a row alike, however many rows there are: on some machines
from two rows on, on others (Intel's with AMX) up to 32. So a seeded answer does not depend on its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from headrace.engine.torch import measured_rounding
from headrace.engine.torch.rounding import UNLIMITED

log = logging.getLogger(__name__)


class Matrices:
    """The reordered matrices of a model."""

    def __init__(self) -> None:
        self.count = 0
        self.rounds_apart = False  # whether products of many rows round each otherwise than those of few
        self._known: dict[
            tuple[tuple[int, int], torch.dtype], int
        ] = {}  # pieces, by a matrix's shape and type
        self._is_careful = False

    def add(self, module: nn.Linear) -> None:
        """Reorder a module's matrix, in place of the original."""
        weight = module.weight.detach()
        with torch.inference_mode():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        key = (shape, weight.dtype)
        if key not in self._known:
            with torch.inference_mode():
                self._known[key] = measured_rounding.piece(_multiplication, *key)
        piece = self._known[key]
        self.count, self.rounds_apart = self.count + 1, self.rounds_apart or piece < UNLIMITED
        module.forward = partial(self._multiplied, packed, module.bias, piece if piece > 1 else UNLIMITED)
        # The rest of the program looks at its type and device only. A tied embedding keeps the original.
        blank = module.weight.new_empty(1).expand(module.weight.shape)
        module.weight = nn.Parameter(blank, requires_grad=False)

    @contextmanager
    def careful(self, wanted: bool) -> Iterator[None]:
        """If `wanted`, divide matrix products into parts so small that every row is rounded alike."""
        self._is_careful = wanted
        try:
            yield
        finally:
            self._is_careful = False

    def _multiplied(
        self, packed: torch.Tensor, bias: torch.Tensor | None, piece: int, rows: torch.Tensor
    ) -> torch.Tensor:
        """rows[..., inputs] times the matrix, plus the bias: [..., outputs]. `piece`: the most rows of a
        careful product.
        """
        count = rows.numel() // rows.shape[-1]
        if not self._is_careful or count <= piece:
            return _product(packed, bias, rows)
        # Parts of nearly one size: none has a single row, which has a kernel of its own.
        parts = rows.reshape(count, -1).tensor_split(-(-count // piece))
        product = torch.cat([_product(packed, bias, part) for part in parts])
        return product.reshape(*rows.shape[:-1], -1)


@contextmanager
def called(model: nn.Module) -> Iterator[Iterable[nn.Linear]]:
    """The linear modules of the model that are called meanwhile. Of others a model may read the matrix itself
    (the time steps of Mamba, Jamba): these must keep it.
    """
    modules: dict[nn.Linear, None] = {}  # in the order of their first calls

    def note(module: nn.Module, _: object) -> None:
        if isinstance(module, nn.Linear):
            modules[module] = None

    hooks = [part.register_forward_pre_hook(note) for part in model.modules() if type(part) is nn.Linear]
    try:
        yield modules
    finally:
        for hook in hooks:
            hook.remove()


def pack_matrices(modules: Iterable[nn.Linear]) -> Matrices:
    """Reorder the matrices of modules on the CPU, in place of the originals."""
    matrices = Matrices()
    if not torch.backends.mkldnn.is_available():
        return matrices
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # without AVX-512 the reordering of bfloat16 is refused
        dtypes.append(torch.bfloat16)
    for module in modules:
        if module.weight.device.type == "cpu" and module.weight.dtype in dtypes:
            matrices.add(module)
    log.info("%d matrices reordered for this processor", matrices.count)
    return matrices


def _multiplication(matrix: torch.Tensor) -> measured_rounding.Multiply:
    return partial(_product, torch.ops.mkldnn._reorder_linear_weight(matrix), None)


def _product(packed: torch.Tensor, bias: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
