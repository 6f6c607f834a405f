"""Training a steering vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.steering.corpus import file_lines, file_texts
from headrace.steering.site import Floats
from headrace.steering.vector_training import direction, random_like

WIDTH = 16
WANTED = np.eye(1, WIDTH, 3, dtype=np.float32)[0] * 2


def texts(count: int, shift: Floats, seed: int = 0) -> list[Floats]:
    """Hidden states of texts of different lengths; the first token's is unlike the others."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        states = rng.standard_normal((int(rng.integers(5, 30)), WIDTH)).astype(np.float32) * 0.1 + shift
        states[0] = 500
        found.append(states)
    return found


@pytest.mark.parametrize("method", ["mean", "pca"])
@pytest.mark.parametrize("tokens", ["all", "last"])
def test_it_points_from_the_negative_to_the_positive_texts(method: str, tokens: str) -> None:
    rng = np.random.default_rng(5)
    # of pairs that differ by how much they have of it, so that the first component is that direction, too
    amounts = rng.uniform(0.5, 1.5, 40)
    positive = [texts(1, WANTED * np.float32(a), seed=i)[0] for i, a in enumerate(amounts)]
    negative = texts(40, np.zeros(WIDTH, np.float32), seed=99)
    found = direction(positive, negative, method=method, tokens=tokens)  # type: ignore[arg-type]
    cosine = found @ WANTED / np.linalg.norm(found) / np.linalg.norm(WANTED)
    assert cosine > 0.95
    assert np.linalg.norm(found) == pytest.approx(2 * amounts.mean(), rel=0.1)


def test_each_text_counts_once_however_long_it_is() -> None:
    short, long = np.ones((3, WIDTH), np.float32), np.full((300, WIDTH), 3, np.float32)
    found = direction([short, long], [np.zeros((5, WIDTH), np.float32)])
    np.testing.assert_allclose(found, 2)


def test_a_text_of_one_token_counts() -> None:
    found = direction([np.ones((1, WIDTH), np.float32)], [np.zeros((1, WIDTH), np.float32)])
    np.testing.assert_allclose(found, 1)


def test_what_cannot_be_trained_is_refused() -> None:
    one = texts(3, WANTED)
    with pytest.raises(ConfigError, match="at least one"):
        direction([], one)
    with pytest.raises(ConfigError, match="do not differ"):
        direction(one, one)
    with pytest.raises(ConfigError, match="3 positive and 2 negative"):
        direction(one, one[:2], method="pca")
    with pytest.raises(ConfigError, match="two pairs"):
        direction(one[:1], one[1:2], method="pca")
    with pytest.raises(ConfigError, match="do not differ"):
        direction([np.full((3, WIDTH), np.inf, np.float32)], one)


def test_a_random_direction_has_the_same_length() -> None:
    found = random_like(WANTED)
    assert np.linalg.norm(found) == pytest.approx(2)
    assert abs(found @ WANTED) < 3.9
    np.testing.assert_array_equal(found, random_like(WANTED))


def test_a_file_is_read_as_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("größer\n\n kleiner \n", encoding=encoding)
        assert file_lines(path) == ["größer", "kleiner"]
        assert list(file_texts([path])) == ["größer\n\n kleiner \n"]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "cp1252"])
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("Größer als sonst.\n", encoding=encoding)
    with pytest.raises(ConfigError, match="is not in UTF-8: its byte"):
        file_lines(path)
    with pytest.raises(ConfigError, match="is not in UTF-8: its byte"):
        list(file_texts([path]))
