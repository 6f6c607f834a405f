from __future__ import annotations

import math

import pytest

from headrace.errors import BadRequest
from headrace.wire.ollama.request import seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0), (300, 300), (1.5, 1.5), (-1, math.inf), ("0", 0), ("300", 300), ("-1", math.inf),
        ("5m", 300), ("300s", 300), ("1h30m", 5400), ("1.5h", 5400), ("500ms", 0.5), ("-1m", math.inf),
        ("+10s", 10), ("1h0m10s", 3610), ("250us", 0.00025),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_ollama_reads_it(value: float | str, expected: float) -> None:
    assert seconds(value, "keep_alive") == pytest.approx(expected)


@pytest.mark.parametrize("value", ["", "soon", "5 m", "5x", "m", "1h30", "--1s", "1e9", "9" * 99, "5m "])
def test_what_is_no_duration_is_refused_by_its_name(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        seconds(value, "keep_alive")
    assert caught.value.param == "keep_alive"
