"""What the processor rounds alike is measured, and a kernel that sums in another order is noticed."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import pytest
import torch

from headrace.engine.torch import measured_rounding
from headrace.engine.torch.attention import PLAIN, Call
from headrace.engine.torch.rounding import UNLIMITED


def kernel(most: int) -> Callable[[torch.Tensor], measured_rounding.Multiply]:
    """Products that sum more than `most` rows in two halves, others in one."""

    def pack(matrix: torch.Tensor) -> measured_rounding.Multiply:
        def multiply(rows: torch.Tensor) -> torch.Tensor:
            terms = rows.float()[:, None, :] * matrix.float()
            halves = terms.chunk(1 if len(rows) <= most else 2, 2)
            parts = [reduce(torch.add, half.unbind(2)) for half in halves]
            return reduce(torch.add, parts).to(rows.dtype)

        return multiply

    return pack


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("most", "found"), [(2000, UNLIMITED), (100, 64), (32, 32), (40, 32), (20, 16), (5, 1)]
)
def test_the_most_rows_that_are_rounded_alike(most: int, found: int, dtype: torch.dtype) -> None:
    assert measured_rounding.piece(kernel(most), (6, 64), dtype) == found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(9, 3, 64, 64), (4, 4, 80, 80), (8, 2, 128, 128), (4, 4, 24, 16)])
def test_there_is_a_way_to_attend_alike(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    heads, kv_heads, width, value_width = shape
    query, key, value = (
        torch.zeros(1, count, 4, size, dtype=dtype)
        for count, size in ((heads, width), (kv_heads, width), (kv_heads, value_width))
    )
    call = Call(query, key, value, PLAIN, None, width**-0.5, None, None)
    found = measured_rounding.rounding([call], dtype)
    assert found is not None
    assert found.padded(700) >= 700
